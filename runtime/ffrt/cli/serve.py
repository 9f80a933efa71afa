"""`ffrt serve`: its flags, and its API keys. The server itself is loaded when it is asked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ffrt.cli.loading import loading
from ffrt.errors import PackageError
from ffrt.files import typed_path

if TYPE_CHECKING:
    from ffrt.serve.options import ServeOptions

GB, HOUR_S = 1_000_000_000, 3600.0


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `ffrt serve`."""
    add = parser.add_argument
    add("--bundle", type=typed_path, metavar="DIR", help="folder of a bundle (default: the demo)")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=_port, default=8000, metavar="N", help="port to listen on, 0 for any (default: 8000)")
    add("--data", type=typed_path, metavar="DIR", help="folder of jobs and videos (default: ~/.local/state/ffrt/serve)")
    add("--keys", type=typed_path, metavar="FILE", help="file of API keys (default: DATA/keys)")
    add("--no-auth", action="store_true", help="ask for no API key, for a server behind a proxy that does")
    add("--provider", default="auto", metavar="NAME", help="auto, cpu, cuda or another of ffrt doctor (default: auto)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: one for each core that may be used)")
    add("--memory", default="fast", choices=("fast", "low"), help="low for networks larger than memory (default: fast)")
    add("--devices", type=_numbers, metavar="N,N", help="numbers of the GPUs to use (default: all)")
    add("--engine", default="local", choices=("local", "ray"), help="this machine, or a Ray cluster (default: local)")
    add("--ray-address", metavar="HOST:PORT", help="the cluster's head (default: RAY_ADDRESS)")
    add("--ray-places", type=_count, metavar="N", help="jobs at once (default: one for each GPU of the cluster)")
    add("--ray-cpus", type=_count, metavar="N", help="processors of a place without a GPU (default: all of a machine)")
    add("--insecure-ray", action="store_true", help="use a cluster that asks for no token")
    add("--queue", type=_count, default=64, metavar="N", help="jobs that may wait (default: 64, 16 of one key)")
    add("--rate", type=_count, default=60, metavar="N", help="new videos a minute of one key (default: 60)")
    add("--max-steps", type=_count, default=100, metavar="N", help="denoising steps of a request (default: 100)")
    add("--keep", type=_amount, default=24, metavar="HOURS", help="how long files are kept (default: 24)")
    add("--max-disk", type=_amount, metavar="GB", help="files together, oldest go first (default: no limit)")
    add("--disk-floor", type=_amount, metavar="GB", help="free disk below which no job is taken (default: 2, or 5 %%)")
    add("--drain", type=_amount, default=30, metavar="S", help="time for running jobs after SIGTERM (default: 30)")
    add("--allow-host", action="append", default=[], metavar="NAME", help="a name that clients may call the server by")
    add("--cors-origin", action="append", default=[], metavar="URL", help="a page of this origin may use the server")
    add("--forwarded-allow-ips", metavar="IPS", help="addresses of proxies whose X-Forwarded headers are believed")
    add("--ssl-certfile", type=typed_path, metavar="FILE", help="certificate for https")
    add("--ssl-keyfile", type=typed_path, metavar="FILE", help="its key")
    add("--log-prompts", action="store_true", help="write prompts into the log")
    keys = parser.add_subparsers(dest="keys_command", metavar="keys")
    of_keys = keys.add_parser("keys", help="make, list and remove API keys", allow_abbrev=False)
    verbs = of_keys.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, told in (("add", "make a key and print it, once"), ("remove", "forget a key"), ("list", "names of keys")):
        one = verbs.add_parser(verb, help=told, allow_abbrev=False)
        if verb != "list":
            one.add_argument("name", metavar="NAME", help="whose key it is")
        if verb == "add":
            one.add_argument("--priority", action="store_true", help="its jobs may go before others")
        one.add_argument(
            "--data", type=typed_path, default=argparse.SUPPRESS, metavar="DIR", help="folder of the server"
        )
        one.add_argument("--keys", type=typed_path, default=argparse.SUPPRESS, metavar="FILE", help="file of API keys")


def flags() -> dict[str, str]:
    """Arguments that errors of the server name, and how they were typed."""
    names = ("data", "host", "keys", "port", "ray_address", "ray_places", "insecure_ray", "ssl_certfile")
    return {name: f"--{name.replace('_', '-')}" for name in names}


def serve(args: argparse.Namespace) -> int:
    """Serve, or change the keys; the exit status. Raises FfrtError."""
    options = _options(args)
    if args.keys_command is not None:
        return _keys(args, options)
    with loading("ffrt"):
        try:
            from ffrt.serve.server import serve as run
        except ImportError as error:
            if isinstance(error, PackageError):
                raise
            raise PackageError(f"the server needs more packages ({error}); type: pip install 'ffrt[serve]'") from error
    return run(options)


def _keys(args: argparse.Namespace, options: ServeOptions) -> int:
    from ffrt.serve.keys import add_key, read_keys, remove_key

    if args.verb == "add":
        print(add_key(options.keys_file, args.name, first=args.priority))
    elif args.verb == "remove":
        remove_key(options.keys_file, args.name)
    else:
        for key in read_keys(options.keys_file):
            print(f"{key.name} (priority)" if key.first else key.name)
    return 0


def _options(args: argparse.Namespace) -> ServeOptions:
    from ffrt.serve.limits import Limits
    from ffrt.serve.options import ServeOptions

    limits = Limits(
        queue=args.queue,
        per_minute=args.rate,
        steps=args.max_steps,
        keep_s=args.keep * HOUR_S,
        drain_s=args.drain,
        max_disk=None if args.max_disk is None else int(args.max_disk * GB),
        disk_floor=None if args.disk_floor is None else int(args.disk_floor * GB),
    )
    return ServeOptions(
        bundle=args.bundle,
        host=args.host,
        port=args.port,
        data=args.data,
        keys=args.keys,
        no_auth=args.no_auth,
        provider=args.provider,
        threads=args.threads,
        memory=args.memory,
        devices=args.devices,
        engine=args.engine,
        ray_address=args.ray_address,
        ray_places=args.ray_places,
        ray_cpus=args.ray_cpus,
        insecure_ray=args.insecure_ray,
        limits=limits,
        hosts=tuple(args.allow_host),
        origins=tuple(args.cors_origin),
        forwarded_allow_ips=args.forwarded_allow_ips,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
        log_prompts=args.log_prompts,
    )


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise argparse.ArgumentTypeError(f"expected numbers of GPUs such as 0,1, got {text!r}")
    return tuple(int(word) for word in words)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:  # getaddrinfo would take it modulo 65536
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000_000:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1e9:
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return number
