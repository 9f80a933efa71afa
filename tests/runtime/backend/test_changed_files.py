"""Files of a bundle that change after they were hashed: no session ever has other weights, whoever reads them."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ffrt import Bundle, BundleError, Pipeline, open_bundle
from ffrt.backend.graph import Graph
from ffrt.backend.onnxruntime_session import OnnxRuntimeSession
from ffrt.backend.providers import PROVIDERS, is_available
from tests.linked import GRAPH, LATENT, WEIGHTS, write_linked, write_weights

INSTALLED = [name for name in ("cpu", "openvino") if is_available(PROVIDERS[name])]


@pytest.fixture
def linked(tmp_path: Path) -> Bundle:
    """A bundle whose decoder has its weights in a file, beside one with others and of the same size."""
    write_linked(tmp_path / "bundle")
    shutil.copytree(tmp_path / "bundle", tmp_path / "other")
    write_weights(tmp_path / "other" / WEIGHTS, 0.5)
    return open_bundle(tmp_path / "bundle")


@pytest.fixture(autouse=True)
def weights_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder stands here for a network that leaves its weights in their file with memory "low"."""
    monkeypatch.setattr("ffrt.backend.graph.holds_weights", lambda bundle, name: False)


def decoder(bundle: Bundle, provider: str = "cpu", memory: str = "fast") -> Graph:
    return Graph(bundle, "movq_decoder", provider=provider, threads=1, memory=memory)


def decoded(graph: Graph) -> np.ndarray:
    return graph({"latent": LATENT})["image"]


def other(bundle: Bundle) -> Path:
    return bundle.folder.parent / "other"


def replaced(bundle: Bundle) -> None:
    os.replace(other(bundle) / WEIGHTS, bundle.folder / WEIGHTS)


def overwritten(bundle: Bundle) -> None:
    """In place, with the time that the file had."""
    before = os.stat(bundle.folder / WEIGHTS)
    (bundle.folder / WEIGHTS).write_bytes((other(bundle) / WEIGHTS).read_bytes())
    os.utime(bundle.folder / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(bundle: Bundle) -> None:
    os.truncate(bundle.folder / WEIGHTS, 64)


def removed(bundle: Bundle) -> None:
    (bundle.folder / WEIGHTS).unlink()


def other_graph(bundle: Bundle) -> None:
    shutil.copyfile(bundle.folder / "movq_encoder.onnx", bundle.folder / GRAPH)


@pytest.mark.parametrize("provider", INSTALLED)
@pytest.mark.parametrize("change", [replaced, overwritten, cut, other_graph])
def test_a_file_that_changed_is_not_opened(linked: Bundle, change: Callable[[Bundle], None], provider: str) -> None:
    change(linked)
    with pytest.raises(BundleError, match=r"has changed since it was opened: sha256 .* expected, .* found"):
        decoder(linked, provider)


def test_a_file_that_was_removed_is_told(linked: Bundle) -> None:
    removed(linked)
    with pytest.raises(BundleError, match=f"{WEIGHTS} is missing"):
        decoder(linked)


@pytest.mark.parametrize("provider", INSTALLED)
def test_a_file_that_holds_the_same_bytes_has_not_changed(linked: Bundle, provider: str) -> None:
    want = decoded(decoder(linked))
    os.utime(linked.folder / WEIGHTS)
    os.link(linked.folder / GRAPH, linked.folder / "more.onnx")
    shutil.copyfile(linked.folder / WEIGHTS, linked.folder / "copy")
    os.replace(linked.folder / "copy", linked.folder / WEIGHTS)
    np.testing.assert_allclose(decoded(decoder(linked, provider)), want, atol=1e-6)


def swap_folders(bundle: Bundle) -> None:
    """Rename the folder away, and another one to its name."""
    bundle.folder.rename(bundle.folder.with_name("aside"))
    other(bundle).rename(bundle.folder)


def swap_folders_back(bundle: Bundle) -> None:
    bundle.folder.rename(other(bundle))
    bundle.folder.with_name("aside").rename(bundle.folder)


def swap_files(bundle: Bundle) -> None:
    (bundle.folder / WEIGHTS).rename(bundle.folder / "aside")
    (other(bundle) / WEIGHTS).rename(bundle.folder / WEIGHTS)


def swap_files_back(bundle: Bundle) -> None:
    (bundle.folder / WEIGHTS).rename(other(bundle) / WEIGHTS)
    (bundle.folder / "aside").rename(bundle.folder / WEIGHTS)


def swap_links(bundle: Bundle) -> None:
    (bundle.folder / WEIGHTS).rename(bundle.folder / "aside")
    (bundle.folder / WEIGHTS).symlink_to(other(bundle) / WEIGHTS)


def swap_links_back(bundle: Bundle) -> None:
    (bundle.folder / WEIGHTS).unlink()
    (bundle.folder / "aside").rename(bundle.folder / WEIGHTS)


def nothing(bundle: Bundle) -> None:
    pass


@pytest.fixture
def opened_between(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something done right before an engine opens a file, and right after."""

    def install(provider: str, bundle: Bundle, before: Callable, after: Callable) -> None:
        row = PROVIDERS[provider]

        def open_between(*arguments):
            before(bundle)
            try:
                return row.open(*arguments)
            finally:
                after(bundle)

        monkeypatch.setitem(PROVIDERS, provider, dataclasses.replace(row, open=open_between))

    return install


@pytest.mark.parametrize("provider", INSTALLED)
@pytest.mark.parametrize(
    ("before", "after"),
    [(replaced, nothing), (overwritten, nothing), (removed, nothing), (swap_files, swap_files_back)],
)
def test_a_file_that_changes_while_an_engine_opens_it_is_told(
    linked: Bundle, opened_between: Callable[..., None], before: Callable, after: Callable, provider: str
) -> None:
    opened_between(provider, linked, before, after)
    with pytest.raises(BundleError, match=f"{WEIGHTS} has changed while it was being opened"):
        decoder(linked, provider)


def test_a_link_that_leads_elsewhere_for_a_moment_is_told(linked: Bundle, opened_between: Callable[..., None]) -> None:
    (linked.folder / WEIGHTS).rename(linked.folder.parent / "blob")
    (linked.folder / WEIGHTS).symlink_to(linked.folder.parent / "blob")
    opened_between("cpu", linked, swap_links, swap_links_back)
    with pytest.raises(BundleError, match=f"{WEIGHTS} has changed while it was being opened"):
        decoder(linked)


@pytest.mark.parametrize("provider", INSTALLED)
@pytest.mark.parametrize("after", [nothing, swap_folders_back])
def test_a_folder_that_is_exchanged_meanwhile_is_still_read(
    linked: Bundle, opened_between: Callable[..., None], after: Callable, provider: str
) -> None:
    want = decoded(decoder(linked))
    opened_between(provider, linked, swap_folders, after)
    np.testing.assert_allclose(decoded(decoder(linked, provider)), want, atol=1e-6)


def test_between_two_requests_a_changed_file_is_told(linked: Bundle) -> None:
    pipe = Pipeline(linked, provider="cpu", threads=1, memory="low")
    latents = np.zeros((2, 4, 4, 4), np.float32)
    assert len(list(pipe.decode(latents, 8))) == 2
    pipe.encode("a red circle")  # with "low" another stage's graph takes the place of the decoder's
    replaced(linked)
    with pytest.raises(BundleError, match=f"{WEIGHTS} has changed since it was opened"):
        list(pipe.decode(latents, 8))


@pytest.mark.parametrize(("provider", "memory"), [("cpu", "low"), *((name, "fast") for name in INSTALLED[1:])])
def test_weights_that_an_engine_maps_may_not_be_written_to(linked: Bundle, provider: str, memory: str) -> None:
    graph = decoder(linked, provider, memory)
    want = decoded(graph)
    os.utime(linked.folder / WEIGHTS)
    np.testing.assert_array_equal(decoded(graph), want)
    overwritten(linked)
    with pytest.raises(BundleError, match=f"{WEIGHTS} has changed since it was opened"):
        graph({"latent": LATENT})


def test_weights_that_change_in_a_run_are_told(linked: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = decoder(linked, memory="low")
    run, raw = OnnxRuntimeSession.run, (linked.folder / WEIGHTS).read_bytes()
    want = decoded(graph)

    def run_and_overwrite(*arguments):
        overwritten(linked)
        return run(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(OnnxRuntimeSession, "run", run_and_overwrite)
        with pytest.raises(BundleError, match=f"{WEIGHTS} has changed while it was used"):
            graph({"latent": LATENT})
    (linked.folder / WEIGHTS).write_bytes(raw)
    np.testing.assert_array_equal(decoded(graph), want)


def test_a_bundle_may_be_replaced_by_rename_while_it_is_used(linked: Bundle) -> None:
    graph = decoder(linked, memory="low")
    want = decoded(graph)
    swap_folders(linked)
    shutil.rmtree(linked.folder.with_name("aside"))
    np.testing.assert_array_equal(decoded(graph), want)
