"""`carryover connect`: send the messages of a broker to sessions, and publish what the server answers."""

from __future__ import annotations

import hashlib
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli import connect, options
from app.cli.connect import DEFAULT_URL

if TYPE_CHECKING:
    from app.connectors.address import Address
    from app.connectors.source import Source

BROKER_PATIENCE_SECONDS = 60.0


def connect_broker(
    source: Annotated[
        str,
        typer.Argument(
            help="mqtt://[USER@]HOST[:PORT]/FILTER or redis://[USER@]HOST[:PORT]/STREAM[?db=N]; with TLS "
            "mqtts:// and rediss://.",
            show_default=False,
        ),
    ],
    session: Annotated[
        str,
        typer.Option(
            metavar="TEMPLATE",
            help="Id of a message's session: {topic}, {1} for the first + of the filter; {stream}, or a "
            "field of an entry.",
            show_default=False,
            callback=connect.check_id,
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Model of sessions that do not exist yet.", show_default=False)
    ] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[INPUT=]FIELD",
            help="Field of JSON or of an entry for an input of the model; may be repeated. "
            "[default: a field of the input's name]",
            show_default=False,
        ),
    ] = None,
    publish: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Topic or stream for predictions.", show_default=False),
    ] = None,
    level: options.Level = None,
    score: options.Score = False,
    alarm_above: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="A surprise above it is an alarm; implies --score.", show_default=False
        ),
    ] = None,
    alarms: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Topic or stream for alarms alone.", show_default=False),
    ] = None,
    dead_letter: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Topic or stream for rejected messages.", show_default=False),
    ] = None,
    in_flight: Annotated[
        int, typer.Option(min=1, max=65_535, help="Most messages that the bridge holds.")
    ] = 1000,
    journal: Annotated[
        Path | None,
        typer.Option(
            help="MQTT: file that makes messages exactly once after a crash of the bridge, too.",
            show_default=False,
        ),
    ] = None,
    client_id: Annotated[
        str | None,
        typer.Option(help="MQTT: client id. [default: made from the other arguments]", show_default=False),
    ] = None,
    group: Annotated[str, typer.Option(help="Redis: consumer group.")] = "carryover",
    only_new: Annotated[
        bool, typer.Option("--only-new", help="Redis: a new group leaves out the entries that exist.")
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Redis: entries to keep in a stream that is written to. [default: all]",
            show_default=False,
        ),
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the broker's password. [default: the variable SOURCE_PASSWORD]",
            show_default=False,
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(help="Certificate authorities of the broker. [default: the system's]"),
    ] = None,
    report: Annotated[float, typer.Option(min=0.1, help="Seconds between two lines of rates.")] = 10.0,
    url: connect.Url = DEFAULT_URL,
    key_file: connect.KeyFile = None,
) -> None:
    """Send the messages of a broker to sessions until SIGTERM or Ctrl-C, and publish the predictions.

    A message is acknowledged after the server has applied it and the broker has its prediction. The broker,
    the server and this command may restart in any order.

    For example: carryover connect mqtt://localhost/plant/+/temperature --session '{topic}' --model boiler
    --publish 'predictions/{topic}'
    """
    from app.connectors import names
    from app.connectors.address import parse_address
    from app.connectors.bridge import Bridge, Options, check_model, check_templates
    from app.connectors.source import Stopped
    from app.connectors.values import Reader

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    address = parse_address(source, password_file, ca_file)

    def template(text: str | None) -> names.Template | None:
        return None if text is None else names.Template(text)

    with connect.client(url, key_file, BROKER_PATIENCE_SECONDS) as patient:
        described = check_model(patient.models(), model)
    # From here on there may be messages to finish; until here the command ends at once.
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = Options(
        names.Template(session),
        template(publish),
        template(alarms),
        template(dead_letter),
        alarm_above=alarm_above,
        score=score or alarm_above is not None,
        level=level,
        in_flight=in_flight,
        report_seconds=report,
    )
    reader = Reader(described.inputs, field or [])
    if address.scheme.startswith("mqtt"):
        broker = _mqtt(address, client_id, f"{source} {session} {url}", in_flight, journal, stop)
    else:
        broker = _redis(address, group, only_new, keep, stop)
    check_templates(options, broker.names)
    with connect.client(url, key_file) as service:
        bridge = Bridge(broker, service, described, reader, options, stop)
        try:
            bridge.run()
        except Stopped:
            pass
        finally:
            broker.close()


def _mqtt(
    address: Address,
    client_id: str | None,
    arguments: str,
    in_flight: int,
    journal: Path | None,
    stop: threading.Event,
) -> Source:
    from app.connectors.journal import Journal
    from app.errors import ConfigError
    from models.installation import install_command

    try:
        from app.connectors.mqtt import Mqtt
    except ModuleNotFoundError as error:
        raise ConfigError(f"MQTT needs {error.name}: {install_command('mqtt')}") from None
    name = client_id or f"carryover-{hashlib.sha256(arguments.encode()).hexdigest()[:12]}"
    return Mqtt(address, name, in_flight, None if journal is None else Journal(journal), stop)


def _redis(address: Address, group: str, only_new: bool, keep: int | None, stop: threading.Event) -> Source:
    from app.errors import ConfigError
    from models.installation import install_command

    try:
        from app.connectors.redis_streams import RedisStreams
    except ModuleNotFoundError as error:
        raise ConfigError(f"Redis Streams need {error.name}: {install_command('redis')}") from None
    return RedisStreams(address, group, only_new, keep, stop)
