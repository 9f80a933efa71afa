"""The command `ffrt`: generate, interpolate, serve, inspect, doctor.

Exit status: 0 done; 1 something failed; 2 the request was wrong and nothing was run; 130 stopped with Ctrl-C, 143 by
SIGTERM. An error is one message on stderr; the result goes to stdout.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ffrt._version import __version__
from ffrt.cli.generate import add_generate, flags, generate
from ffrt.cli.interpolate import add_interpolate, interpolate, interpolate_flags
from ffrt.cli.loading import loading
from ffrt.cli.serve import add_serve, serve
from ffrt.cli.serve import flags as flags_of_serve
from ffrt.cli.streams import leave_streams, open_streams
from ffrt.errors import Cancelled, FfrtError, RequestError
from ffrt.files import limit_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    open_streams()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _terminate)
    try:
        args = _parser().parse_args(argv)
        if args.command in ("generate", "interpolate"):
            status = generate(args) if args.command == "generate" else interpolate(args)
            sys.stdout.flush()
            return status
        if args.command == "serve":
            return serve(args)
        with loading("ffrt"):
            from ffrt.cli.doctor import doctor
            from ffrt.cli.inspect import inspect

        text, status = doctor() if args.command == "doctor" else (inspect(args.what, args.json), 0)
        print(text, flush=True)
        return status
    except (KeyboardInterrupt, Cancelled):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more changes nothing
        print("ffrt: stopped, nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of stdout has seen enough
        leave_streams()
        return 1
    except (FfrtError, ImportError) as error:
        print(f"ffrt: {_as_typed(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1
    except OSError as error:  # the system refused what no library expects to be refused
        limit = limit_of(error)
        print(f"ffrt: {error if limit is None else limit}", file=sys.stderr)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ffrt", description="A sentence becomes a video, without PyTorch.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"ffrt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_generate(commands.add_parser("generate", help="make a video of a prompt", allow_abbrev=False))
    help = "give a video of your own 4 or 16 times its frames"
    add_interpolate(commands.add_parser("interpolate", help=help, allow_abbrev=False))
    add_serve(commands.add_parser("serve", help="make videos for clients over HTTP", allow_abbrev=False))

    add = commands.add_parser("inspect", help="show what a bundle holds, or how a video was made").add_argument
    add("what", metavar="BUNDLE", help="folder of a bundle, 'demo', or a video that ffrt wrote")
    add("--json", action="store_true", help="print JSON")

    commands.add_parser("doctor", help="check the installation and say what to install next")
    return parser


def _as_typed(message: str) -> str:
    """An error that begins with an argument of the library begins with the flag that was typed."""
    name, colon, rest = message.partition(":")
    typed = {**interpolate_flags(), **flags_of_serve(), **flags()}
    return f"{typed[name]}{colon}{rest}" if colon and name in typed else message


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # unwinds the stack, so that the temporary folder is removed
