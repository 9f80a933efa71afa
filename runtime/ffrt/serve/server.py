"""`ffrt serve`: one process that answers, and one for each place that makes videos."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import ipaddress
import logging
import signal
import socket
import ssl
import threading
from types import FrameType

import uvicorn

from ffrt import __version__
from ffrt.bundle import Bundle, find_bundle, open_bundle
from ffrt.errors import RequestError
from ffrt.serve import memory, notify
from ffrt.serve.api.app import build
from ffrt.serve.api.guard import MAX_HEADER_BYTES
from ffrt.serve.api.metrics.gpus import Nvml, own_gpus
from ffrt.serve.api.metrics.recorded import Metrics
from ffrt.serve.api.service import Service
from ffrt.serve.connections import MAX_ACCEPTED, MAX_CONNECTIONS, Connection
from ffrt.serve.engine.executor import Executor
from ffrt.serve.engines import opened_engine
from ffrt.serve.errors import ServeError
from ffrt.serve.jobs.data import Data
from ffrt.serve.jobs.dispatcher import Dispatcher
from ffrt.serve.jobs.estimates import Estimates
from ffrt.serve.jobs.job import State
from ffrt.serve.jobs.live import Live
from ffrt.serve.jobs.outcome import Outcome
from ffrt.serve.jobs.store import Store
from ffrt.serve.jobs.thread import StoreThread
from ffrt.serve.keeper import Keeper
from ffrt.serve.keys import Keys
from ffrt.serve.limits import Rate, Slots
from ffrt.serve.logs import log_to
from ffrt.serve.options import ServeOptions

logger = logging.getLogger("ffrt.serve")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
KEEP_ALIVE_S = 10
"""Twice the longest pause that a poller is told: one that obeys finds its connection open."""


def serve(options: ServeOptions) -> int:
    """Serve until SIGTERM or SIGINT; 0 after all jobs are on the disk. Raises FfrtError if it cannot start."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(log_to())
        keys = Keys(options.keys_file)
        check_address(options, keys)
        passphrase = check_certificate(options)
        bundle = open_bundle(find_bundle(options.bundle))
        data = Data(options.data_folder)
        stack.callback(data.close)
        store = opened_store(data)
        stack.callback(store.close)
        listening = bound(options.host, options.port)
        stack.callback(listening.close)
        executor = stack.enter_context(opened_engine(options, bundle, data))
        service = assembled(options, keys, bundle, store, data, executor)
        service.metrics.watch_gpus(own_gpus(executor.places()), Nvml().read)
        keeper = Keeper(store, data, options.limits)
        keeper.start()
        stack.callback(keeper.close)
        service.dispatcher.start()
        app = build(service, hosts=names(options), origins=options.origins)
        scheme = "http" if options.ssl_certfile is None else "https"
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        serving = f"serving {bundle.name} at {scheme}://{shown}:{port}"
        server = Server(configured(options, app, passphrase), service, serving)
        print(f"ffrt {__version__}: {serving}", flush=True)
        memory.map_buffers()
        memory.keep_loaded()
        server.run(sockets=[listening])
        service.dispatcher.drain(0)
    return 0


def check_address(options: ServeOptions, keys: Keys) -> None:
    """Raise RequestError if everybody could ask who can reach the address."""
    if not len(keys) and not options.no_auth and not _is_loopback(options.host):
        raise RequestError(
            f"host: expected 127.0.0.1, since there are no API keys, got {options.host!r}; make one with "
            "'ffrt serve keys add NAME', or type --no-auth if a proxy asks for keys"
        )


def check_certificate(options: ServeOptions) -> str | None:
    """Ask once for the passphrase of the certificate's key, None if it has none, before a model is loaded.

    Raises ServeError for a certificate or key that cannot be used.
    """
    if options.ssl_certfile is None:
        return None
    key = options.ssl_certfile if options.ssl_keyfile is None else options.ssl_keyfile
    asked: list[str] = []

    def ask() -> str:
        asked.append(getpass.getpass(f"passphrase of {key}: "))
        return asked[-1]

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.ssl_certfile, options.ssl_keyfile, ask)
    except (OSError, EOFError) as error:
        named = f"{str(options.ssl_certfile)!r} with the key {str(options.ssl_keyfile)!r}"
        raise ServeError(f"ssl_certfile: {named} cannot be used ({error}); give a certificate and its key") from error
    return asked[-1] if asked else None


def opened_store(data: Data) -> StoreThread:
    """The table, with the jobs of a server that was killed back in order, and what it left half done removed."""
    store = Store(data.database)
    orphans = store.recover()
    gone = data.sweep(store.ids(State.COMPLETED), store.ids(State.QUEUED))
    if orphans or gone:
        logger.warning("after a kill: %s jobs are taken up again, %s files removed", len(orphans), len(gone))
    return StoreThread(store)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ServeError."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = infos[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(MAX_CONNECTIONS)
        return listening
    except (OSError, OverflowError) as error:
        raise ServeError(f"host: {host}:{port} cannot be listened on ({error}); choose another --port") from error


def assembled(
    options: ServeOptions, keys: Keys, bundle: Bundle, store: StoreThread, data: Data, executor: Executor
) -> Service:
    """All parts of a server, joined."""
    limits, live, estimates, metrics = options.limits, Live(), Estimates(), Metrics()
    outcome = Outcome(data, limits.keep_s, limits.disk_wait_s)
    dispatcher = Dispatcher(store, data, executor, live, estimates, metrics, outcome, bundle.digest)
    streams = Slots("event streams", limits.streams, limits.streams_per_key)
    metrics.gauge("ffrt_jobs_queued", "jobs that wait", lambda: len(store.wait(Store.ids, State.QUEUED)))
    metrics.gauge("ffrt_jobs_running", "jobs that run", lambda: len(store.wait(Store.ids, State.IN_PROGRESS)))
    metrics.gauge("ffrt_disk_free_bytes", "free bytes of the data folder", lambda: data.free()[0])
    metrics.gauge("ffrt_disk_floor_bytes", "below it nothing is queued", lambda: limits.floor(data.free()[1]))
    metrics.gauge("ffrt_event_streams", "open event streams", lambda: streams.taken)
    return Service(
        bundle=bundle,
        memory=options.memory,
        limits=limits,
        keys=keys,
        with_keys=len(keys) > 0 and not options.no_auth,
        store=store,
        data=data,
        live=live,
        estimates=estimates,
        executor=executor,
        dispatcher=dispatcher,
        metrics=metrics,
        rate=Rate(limits.per_minute),
        streams=streams,
        syncs=Slots("synchronous requests", limits.sync, limits.sync),
        log_prompts=options.log_prompts,
    )


def names(options: ServeOptions) -> list[str]:
    """The names of hosts that clients may use: those that the server is bound to, and those that were given."""
    own = LOOPBACK if _is_loopback(options.host) else (*LOOPBACK, options.host, socket.gethostname())
    return sorted({name.lower() for name in (*own, *options.hosts)})


def configured(options: ServeOptions, app: object, passphrase: str | None = None) -> uvicorn.Config:
    """Settings of uvicorn; `passphrase` is that of the certificate's key."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=MAX_ACCEPTED,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_graceful_shutdown=3,
        proxy_headers=options.forwarded_allow_ips is not None,
        forwarded_allow_ips=options.forwarded_allow_ips,
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        ssl_keyfile_password=passphrase,
    )


class Server(uvicorn.Server):
    """uvicorn that drains at the first signal and hurries at the second."""

    def __init__(self, config: uvicorn.Config, service: Service, serving: str) -> None:
        """`serving` is what a service manager is told."""
        super().__init__(config)
        self._service, self._serving = service, serving
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = False  # whether there was a signal

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and SIGHUP reads the keys again."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and a service manager is told that requests are answered."""
        await super().startup(sockets)
        for listening in () if sockets is None else sockets:
            listening.listen(MAX_CONNECTIONS)  # so many may wait; asyncio listened for those of one turn
        if self.started:
            notify.ready(self._serving)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT. Amid anything that this thread does, so it only hands the signal on.

        A handler that writes to the log fails where it interrupts a write to the log, and the signal would be lost.
        """
        if self._loop is None or self._told:
            self._service.dispatcher.hurry()
            return
        self._told = True
        self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        """No new jobs, an end to streams, some time for running jobs."""
        ending = f"it ends: running jobs have {self._service.limits.drain_s:.0f} s"
        logger.warning("%s", ending)
        notify.stopping(ending)
        self._service.ending.set()
        self._service.live.wake_all()
        threading.Thread(target=self._drain, name="ffrt-drain", daemon=True).start()

    def _drain(self) -> None:
        try:
            self._service.dispatcher.drain(self._service.limits.drain_s)
        finally:
            self.should_exit = True

    def _reload(self) -> None:
        try:
            self._service.keys.reload()
            logger.info("the keys were read again")
            if len(self._service.keys) and not self._service.with_keys:
                logger.warning("no key is asked for: it began without keys or with --no-auth; start it again")
        except ServeError as error:
            logger.error("%s", error)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
