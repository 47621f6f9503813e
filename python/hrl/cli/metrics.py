"""The statistics of a running agent over HTTP: /metrics in the Prometheus text format, and /healthz.

/healthz answers 503 while something is critical by the rules of `hrl.health`, and 200 otherwise; its body is the line of
`hrl health`. Nothing here changes anything. There is no TLS and no password, so serve where only the monitoring reaches. At
most `CONNECTIONS_MAX` connections are open at once; a further one takes the place of the oldest, so that slow clients keep
nobody out.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Self

from hrl.cli.exits import Exit, Refused
from hrl.health import line, of_agent, worst

CONNECTIONS_MAX = 16
REQUEST_SECONDS_MAX = 10
MODES = ("ordered", "dirty", "resync")

METRICS = {
    "last_sequence": ("hrl_last_sequence", "gauge", "Newest sequence captured."),
    "journaled_sequence": ("hrl_journaled_sequence", "gauge", "Newest sequence durable in the local journal."),
    "replicated_sequence": ("hrl_replicated_sequence", "gauge", "Newest sequence in the vault's catalog."),
    "rpo_seconds": ("hrl_rpo_seconds", "gauge", "Age of the oldest captured change that is not in the vault."),
    "changes": ("hrl_changes_total", "counter", "Changes captured."),
    "bytes_captured": ("hrl_captured_bytes_total", "counter", "Bytes of data captured."),
    "bytes_stored": ("hrl_stored_bytes_total", "counter", "Bytes of closed segments written."),
    "queue_bytes": ("hrl_queue_bytes", "gauge", "Memory of the queue."),
    "spool_bytes": ("hrl_spool_bytes", "gauge", "Segments waiting for the vault."),
    "backlog_bytes": ("hrl_backlog_bytes", "gauge", "Captured and not in the vault."),
    "ship_bytes_per_second": ("hrl_ship_bytes_per_second", "gauge", "Recent speed of shipping."),
    "eta_seconds": ("hrl_eta_seconds", "gauge", "Time until the backlog is in the vault; absent when not known."),
    "marked_regions": ("hrl_marked_regions", "gauge", "Dirty regions: what is read again after a crash."),
    "resync_bytes_left": ("hrl_resync_left_bytes", "gauge", "Bytes that a resync has still to read."),
    "resync_bytes_read": ("hrl_resync_read_bytes", "gauge", "Bytes that the resync under way, or the last, has read."),
    "points": ("hrl_points_total", "counter", "Points taken since the agent started."),
    "vault_available": ("hrl_vault_available", "gauge", "1 when the vault took the last segment."),
    "vault_away": ("hrl_vault_away", "gauge", "1 until the vault has answered since the start; nothing is shipped before."),
    "fenced": ("hrl_fenced", "gauge", "1 when another source has the volume."),
    "catalog_version": ("hrl_catalog_version", "gauge", "Newest version of the vault's catalog."),
    "catalog_time_ns": ("hrl_catalog_time_seconds", "gauge", "Time of the newest record or heartbeat that it lists."),
    "rpo_threshold_seconds": ("hrl_rpo_threshold_seconds", "gauge", "RPO beyond which the agent raises an event; 0 is off."),
    "size_bytes": ("hrl_volume_size_bytes", "gauge", "Size of the volume."),
    "last_point_time_ns": ("hrl_last_cut_time_seconds", "gauge", "Time of the last point of an attached disk."),
    "last_cut_seconds": ("hrl_last_cut_seconds", "gauge", "How long the last cut of an attached disk took."),
    "last_cut_tries": ("hrl_last_cut_tries", "gauge", "Cuts that were tried for that point."),
    "read_amplification": ("hrl_read_amplification", "gauge", "Bytes copied for each byte of changed blocks."),
    "bytes_copied": ("hrl_copied_bytes_total", "counter", "Bytes copied by cuts."),
    "map_bytes": ("hrl_map_bytes", "gauge", "Memory of the maps of changed blocks."),
    "skipped": ("hrl_skipped_points_total", "counter", "Points of an attached disk that were due and not made."),
    "audits_failed": ("hrl_failed_audits_total", "counter", "Audits after which the whole disk was compared."),
    "freezes": ("hrl_freezes_total", "counter", "Points for which file systems were frozen without being asked to."),
}
"""Name, type and help text of each statistic."""


class MetricsServer:
    """Answers until closed. `statuses` returns of each volume the fields of `Stats`, `volume`, `size_bytes` and
    `rpo_threshold_seconds`.
    """

    def __init__(
        self,
        address: str,
        *,
        statuses: Callable[[], list[dict[str, Any]]],
        events: Mapping[tuple[str, str], int],
        dropped: Callable[[], Mapping[str, int]],
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_SECONDS_MAX

            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self.answer(200, page(statuses(), events, dropped()), "text/plain; version=0.0.4; charset=utf-8")
                elif self.path == "/healthz":
                    found = [(now["volume"], of_agent(now, now["rpo_threshold_seconds"])) for now in statuses()]
                    code = 503 if any(worst(of_one) == "bad" for _, of_one in found) else 200
                    said = "".join(line(volume, of_one) + "\n" for volume, of_one in found)
                    self.answer(code, said, "text/plain; charset=utf-8")
                else:
                    self.answer(404, "/metrics and /healthz are here\n", "text/plain; charset=utf-8")

            def answer(self, code: int, body: str, kind: str) -> None:
                data = body.encode()
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Logs nothing: requests are no events."""

        try:
            host, _, port = address.rpartition(":")
            self._server = Server((host, int(port)), Handler)
        except (OSError, OverflowError, ValueError) as error:
            raise Refused(f"cannot serve metrics at {address}: {error}", Exit.INVALID_INPUT) from None
        self.address = f"{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="hrl-metrics", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server(ThreadingHTTPServer):
    """Serves each connection on a thread of its own, up to the limit."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._open: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for the name of this host.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= CONNECTIONS_MAX:
                oldest = self._open.pop(next(iter(self._open)))
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[id(request)] = request
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                if self._open.get(id(request)) is request:
                    del self._open[id(request)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing: a client may go away."""


def page(statuses: Sequence[Mapping[str, Any]], events: Mapping[tuple[str, str], int], dropped: Mapping[str, int]) -> str:
    """Returns all metrics of an agent, of each of its volumes."""
    lines: list[str] = []
    for name, (metric, kind, words) in METRICS.items():
        values = [(label(status["volume"]), status[name]) for status in statuses if status.get(name) is not None]
        if values:
            shown = ((volume, value / 1e9 if name.endswith("_ns") else value) for volume, value in values)
            lines += [*head(metric, kind, words), *(f"{metric}{{{volume}}} {number(value)}" for volume, value in shown)]
    lines += head("hrl_mode", "gauge", "1 for the mode of capture, 0 for the others.")
    for status in statuses:
        is_mode = (f'mode="{mode}"}} {int(status["mode"] == mode)}' for mode in MODES)
        lines += [f"hrl_mode{{{label(status['volume'])},{text}" for text in is_mode]
    lines += head("hrl_events_total", "counter", "Events by kind since the agent started.")
    counted = sorted(dict(events).items())
    lines += [f'hrl_events_total{{{label(volume)},kind="{escaped(kind)}"}} {count}' for (volume, kind), count in counted]
    lines += head("hrl_events_undelivered_total", "counter", "Events that a sink did not deliver.")
    volumes = ",".join(str(status["volume"]) for status in statuses)
    lines += [f'hrl_events_undelivered_total{{{label(volumes)},sink="{escaped(s)}"}} {n}' for s, n in dropped.items()]
    return "\n".join(lines) + "\n"


def label(volume: object) -> str:
    """Returns the label that names a volume."""
    return f'volume="{escaped(str(volume))}"'


def head(metric: str, kind: str, words: str) -> list[str]:
    """Returns the lines before a metric."""
    return [f"# HELP {metric} {words}", f"# TYPE {metric} {kind}"]


def number(value: float) -> str:
    """Returns a value as Prometheus reads it."""
    return str(int(value)) if isinstance(value, bool | int) else repr(value)


def escaped(text: str) -> str:
    """Returns a text as the value of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
