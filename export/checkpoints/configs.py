"""Arguments of the released U-Net constructors -> our configurations, with the released defaults where one is missing.

Sources: `video_kandinsky3/model/unet.py` (1.0), `kandinsky_video/model/unet.py` and its neighbour
`unet_interpolation.py` (1.1).
Whatever an argument asks for is either built or refused by name; none is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from export.errors import ConfigError
from export.models.configs import MoVQConfig, UNetConfig

_REQUIRED = ("model_channels", "time_embed_dim", "context_dim")
_NULLABLE = ("init_channels", "out_channels", "num_frames")  # null, which is their default
_DEFAULTS: dict[str, Any] = {
    "init_channels": None,  # as model_channels
    "num_channels": 3,
    "out_channels": 3,
    "groups": 32,
    "head_dim": 64,
    "expansion_ratio": 4,
    "compression_ratio": 2,
    "dim_mult": (1, 2, 4, 8),
    "num_blocks": (3, 3, 3, 3),
    "add_cross_attention": (False, True, True, True),
    "add_self_attention": (False, True, True, True),
}
_SWITCHES = {  # 1.1 interpolation: what we build, which is what each argument is by default
    "temporal": True,
    "use_perturbation_time_embed": True,
    "merge_perturbation_time_with_diffusion_time": True,
    "merge_perturbation_time_with_context": False,
    "pass_skip_frames": True,
}


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int

    def holds(self, value: object) -> bool:
        """Whether a value of a configuration is one of these."""
        return type(value) is int and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def holds(self, value: object) -> bool:
        """Whether a value of a configuration is one of these."""
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Each:
    """A list of at most eight of one kind."""

    kind: Whole | Flag
    least: int = 1

    def holds(self, value: object) -> bool:
        """Whether a value of a configuration is one of these."""
        return isinstance(value, (list, tuple)) and self.least <= len(value) <= 8 and all(map(self.kind.holds, value))

    def __str__(self) -> str:
        return f"a list of {self.least} to 8 values, each {self.kind}"


_WIDTH, _CHANNELS, _RATIO = Whole(1, 16384), Whole(1, 64), Whole(1, 16)
ARGUMENTS: Mapping[str, Whole | Flag | Each] = {
    "model_channels": _WIDTH,
    "init_channels": _WIDTH,
    "time_embed_dim": _WIDTH,
    "context_dim": _WIDTH,
    "num_channels": _CHANNELS,
    "out_channels": _CHANNELS,
    "groups": Whole(1, 1024),
    "head_dim": Whole(1, 1024),
    "expansion_ratio": _RATIO,
    "compression_ratio": _RATIO,
    "dim_mult": Each(_RATIO),
    "num_blocks": Each(Whole(1, 8)),
    "add_cross_attention": Each(Flag()),
    "add_self_attention": Each(Flag()),
    "num_frames": Whole(1, 4096),
    "time_downsample": Each(Flag(), least=0),
    "ch": _WIDTH,
    "ch_mult": Each(_RATIO),
    "num_res_blocks": Whole(1, 16),
    "attn_resolutions": Each(Whole(1, 16384), least=0),
    "resolution": Whole(1, 16384),
    "z_channels": _CHANNELS,
    "in_channels": _CHANNELS,
    "out_ch": _CHANNELS,
    "temporal_kernel_size": Each(Whole(1, 9)),
    "temporal_conv_padding": Each(Whole(0, 4)),
    **dict.fromkeys(
        (
            *("interpolation", "noise_augmentation", "motion_score", *_SWITCHES),
            *("add_new_temporal_params", "add_temporal_attention"),
            *("temporal", "temporal_mid_blocks", "temporal_attention_block", "temporal_blocks"),
            *("build_3D_decoder", "flicker_augmentation"),
        ),
        Flag(),
    ),
}
"""What every argument of a released constructor may be: some four times what the releases have."""


def check_arguments(released: Mapping[str, Any]) -> None:
    """Raise ConfigError naming the first argument whose value is of another type or out of bounds."""
    for name, value in released.items():
        kind = ARGUMENTS.get(name)
        absent = value is None and name in (*_REQUIRED, *_NULLABLE)
        if kind is not None and not absent and not kind.holds(value):
            raise ConfigError(f"{name}: expected {kind}, got {value!r:.80}")


def keyframe_config(released: Mapping[str, Any]) -> UNetConfig:
    """The 1.0 keyframe U-Net. T is an input of ours, so `num_frames` only has to be there.

    Raises ConfigError naming an argument that is missing, unknown or not built.
    """
    arguments = _filled(released, {"num_frames": None, "interpolation": False})
    frames, interpolation = arguments.pop("num_frames"), arguments.pop("interpolation")
    if frames is None or interpolation:
        raise ConfigError(
            "expected the arguments of a keyframe U-Net (num_frames a number, interpolation false), got "
            f"num_frames {frames!r}, interpolation {interpolation!r}; is this another network's configuration?"
        )
    return UNetConfig(**arguments)


def interpolation_config(released: Mapping[str, Any]) -> UNetConfig:
    """The 1.0 interpolation U-Net, which ignores `num_frames`.

    Raises ConfigError naming an argument that is missing, unknown or not built.
    """
    arguments = _filled(released, {"num_frames": None, "interpolation": False})
    del arguments["num_frames"]
    if not arguments.pop("interpolation"):
        raise ConfigError("interpolation: expected true, got false; is this another network's configuration?")
    return UNetConfig(**arguments)


def image_keyframe_config(released: Mapping[str, Any]) -> UNetConfig:
    """The 1.1 keyframe U-Net, whose `out_channels` are `num_channels` where they are not given.

    Raises ConfigError naming an argument that is missing or unknown.
    """
    arguments = _filled(released, {"out_channels": None, "noise_augmentation": False, "motion_score": False})
    if arguments["out_channels"] is None:
        arguments["out_channels"] = arguments["num_channels"]
    return UNetConfig(**arguments)


def texted_interpolation_config(released: Mapping[str, Any]) -> UNetConfig:
    """The 1.1 interpolation U-Net; `add_temporal_attention` is true where it is not given.

    Raises ConfigError naming an argument that is missing, unknown or not built.
    """
    check_released_interpolation(released)
    extra = {"add_new_temporal_params": False, "add_temporal_attention": True}
    arguments = _filled(released, {**extra, **_SWITCHES, "time_downsample": (), "temporal_type": ""})
    return UNetConfig(
        **{k: v for k, v in arguments.items() if k not in {*_SWITCHES, "time_downsample", "temporal_type"}}
    )


def check_released_interpolation(released: Mapping[str, Any]) -> None:
    """Refuse what the 1.1 interpolation U-Net offers and ours has not; `temporal_type` changes nothing in it.

    Raises ConfigError naming the argument, what we build and what was asked for.
    """
    check_arguments(released)
    if any(released.get("time_downsample", ())):
        raise ConfigError(
            f"time_downsample: expected false at every level, got {list(released['time_downsample'])}; halving the "
            "number of groups on the way down is not built here"
        )
    for name, built in _SWITCHES.items():
        if released.get(name, built) is not built:
            raise ConfigError(
                f"{name}: expected {built}, got {released[name]!r}; the other networks of the released interpolation "
                "class are not built here"
            )


def _filled(released: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments with defaults filled in and lists as tuples."""
    defaults = {**_DEFAULTS, **more}
    check_arguments(released)
    missing = [name for name in _REQUIRED if released.get(name) is None]
    unknown = sorted(released.keys() - defaults.keys() - set(_REQUIRED))
    if missing or unknown:
        raise ConfigError(
            f"the arguments do not fit this released class: missing {missing}, unknown {unknown}; it takes "
            f"{sorted({*_REQUIRED, *defaults})}"
        )
    arguments = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in released.items()
        if value is not None or name not in _NULLABLE
    }
    filled = {**defaults, **arguments}
    if filled["init_channels"] is None:
        filled["init_channels"] = filled["model_channels"]
    return filled


def movq_config(released: Mapping[str, Any]) -> MoVQConfig:
    """MoVQ of either release; arguments that change no number (`dropout`) or no decoder (`give_pre_end`) are left.

    Raises ConfigError for one that is missing or out of bounds and for a kernel that does not fit.
    """
    check_arguments(released)
    known = {field.name for field in fields(MoVQConfig)}
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in released.items() if k in known}
    try:
        return MoVQConfig(**arguments)
    except TypeError as error:
        raise ConfigError(str(error)) from error
