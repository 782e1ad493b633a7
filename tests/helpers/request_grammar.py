"""Random requests for chunks: plain ones, ones that are almost plain, and damaged ones."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from decimal import Decimal
from random import Random

import numpy as np

ID_CHARACTERS = string.ascii_letters + string.digits + "._:-"
ODD_IDS = [".", "..", "...", ".a", "a" * 128, "a" * 129, "", "a%20b", "a/b", "a b", "ä", "a?x=1", "a#b", "A~"]
ODD_NUMBERS = [
    "01", "-01", "00", "+1", ".5", "-.5", "1.", "1.e5", "1e", "1e+", "1E-", "-", "--", "--1", "- 1", "1,,",
    "NaN", "nan", "Infinity", "-Infinity", "inf", "null", "true", "0x10", "1_0", '"1"', "[]", "{}", "1..5",
    "1.5.5", "1e5e5", "1e5.5", "1-", "1+1", "²", "1ee5", "e5", "1f", "0.1f",
]  # fmt: skip
EDGES = [
    "0", "-0", "0.0", "-0.0", "0e5", "-0e5", "0E-9999", "-0.00e+10", "1e0005", "1e00005", "1E+05", "1e-5",
    "1e22", "1e23", "1e-22", "1e-23", "1e37", "1.1e37", "9e36", "1e-30", "9e-31", "1.1e-30",
    "3.4028235e38", "3.4028236e38", "1e39", "1e308", "1e309", "1e-45", "1e-46", "1.1754944e-38", "5e-324",
    "1e-400", "9007199254740992", "9007199254740993", "9007199254740993e22", "18446744073709551615",
    "18446744073709551616", "9999999999999999999", "9999999999999999999e-40", "99999999999999999999",
    "16777217", "16777217.0", "16777219", "33554434.5", "0.00000000000000000000000012345",
    "1234567890123456789e-44", "1234567890123456789e-45", "1e44", "0.1e-9999", "1e99999",
]  # fmt: skip
HEADS = [  # what is before and behind the content length
    ["Host: 127.0.0.1:8000|Accept: */*|User-Agent: curl/8.5.0|Content-Type: application/json", ""],
    ["host: localhost", ""],
    ["Host: a.example", "Content-Type: application/json|Authorization: Bearer co_0123456789abcdef"],
    ["Host: a.example|Connection: keep-alive|Accept-Encoding: gzip, deflate|X-Empty:", "Accept: */*"],
    ["", "Host: [::1]:8000|User-Agent: Go-http-client/1.1|Accept-Encoding: gzip"],
]
LENGTH_FIELDS = ["Content-Length: %d", "content-length:%d", "CONTENT-LENGTH:   %d  ", "Content-length: %d"]
Variant = Callable[[Random], str]


def simple_number(rng: Random) -> str:
    """A number that is plain in any case."""
    return rng.choice(
        [
            lambda: repr(rng.gauss(0, 1)),
            lambda: repr(rng.uniform(1, 10) * 10.0 ** rng.randint(-28, 35)),
            lambda: str(np.float32(rng.gauss(0, 1))),
            lambda: repr(float(np.float32(rng.gauss(0, 1000)))),
            lambda: str(rng.randint(-(10**9), 10**9)),
            lambda: f"{rng.gauss(0, 100):.{rng.randint(0, 14)}f}",
            lambda: f"{rng.gauss(0, 100):.{rng.randint(0, 9)}e}",
            lambda: rng.choice(["0", "-0", "0.0", "-0.0", "1e2", "-1E+2", "1e-2"]),
        ]
    )()


def hard_number(rng: Random) -> str:
    """A number that is valid, but may be difficult to round, too long, too large or too small."""
    return rng.choice([_digits, _near_halfway, _any_float32, _any_double, lambda rng: rng.choice(EDGES)])(rng)


def _digits(rng: Random) -> str:
    """Up to 25 digits, with a point and an exponent or without."""
    digits = str(rng.randrange(10 ** rng.randint(1, 25)))
    if rng.random() < 0.6:
        digits += "." + "0" * rng.choice([0, 0, 0, 5, 30]) + str(rng.randrange(10 ** rng.randint(1, 19)))
    if rng.random() < 0.5:
        digits += f"{rng.choice('eE')}{rng.choice(['', '+', '-'])}{rng.randint(0, 45)}"
    return rng.choice(["", "-"]) + digits


def _near_halfway(rng: Random) -> str:
    """A number between two float32 neighbours, or hardly away from there, in 15 to 25 digits."""
    below = np.float32(rng.uniform(1, 10) * 10.0 ** rng.randint(-12, 12))
    halfway = (Decimal(float(below)) + Decimal(float(np.nextafter(below, np.float32(np.inf))))) / 2
    text = f"{halfway:.{rng.randint(14, 24)}e}"
    if rng.random() < 0.3:
        return f"{halfway:f}"  # exactly
    return text if rng.random() < 0.5 else f"{Decimal(text):f}"


def _any_float32(rng: Random) -> str:
    number = np.uint32(rng.getrandbits(32)).view(np.float32)
    return str(number) if np.isfinite(number) else "0"


def _any_double(rng: Random) -> str:
    number = np.uint64(rng.getrandbits(64)).view(np.float64)
    return repr(float(number)) if np.isfinite(number) else "0"


def blanks(rng: Random) -> str:
    """Blanks where JSON allows them: mostly none or one."""
    return rng.choice(["", "", " ", "\n", "\t", "\r\n", "   "])


def rows(rng: Random, number: Variant, most: int) -> str:
    """Observations of one width, or bare numbers."""
    count = rng.choice([1, 1, 1, 2, rng.randint(1, most)])
    if rng.random() < 0.4:
        return _list(rng, [number(rng) for _ in range(count)])
    width = rng.choice([1, 1, 2, 3])
    return _list(rng, [_list(rng, [number(rng) for _ in range(width)]) for _ in range(count)])


def _list(rng: Random, items: list[str]) -> str:
    spaced = [f"{blanks(rng)}{item}{blanks(rng)}" for item in items]
    return f"[{','.join(spaced)}]"


def odd_rows(rng: Random) -> str:
    """Observations that are refused, or unusual."""
    good = simple_number
    return rng.choice(
        [
            lambda: "[]",
            lambda: "[[]]",
            lambda: f"[[{good(rng)}],[]]",
            lambda: f"[[{good(rng)}],[{good(rng)},{good(rng)}]]",
            lambda: f"[{good(rng)},[{good(rng)}]]",
            lambda: f"[[{good(rng)}],{good(rng)}]",
            lambda: f"[[[{good(rng)}]]]",
            lambda: f"[{good(rng)},]",
            lambda: f"[,{good(rng)}]",
            lambda: f"[{good(rng)} {good(rng)}]",
            lambda: f"[[{good(rng)}]",
            lambda: f"[{good(rng)}]]",
            lambda: good(rng),
            lambda: "null",
            lambda: f"[{rng.choice(ODD_NUMBERS)}]",
            lambda: f"[[{good(rng)}],[{rng.choice(ODD_NUMBERS)}]]",
            lambda: f"[{','.join(['1'] * rng.randint(95, 105))}]",
            lambda: f"[{','.join(['[1]'] * rng.randint(95, 105))}]",
            lambda: f"[{'1,' * rng.randint(30, 40) * 1000}1]",
        ]
    )()


def simple_at(rng: Random) -> str:
    """A position."""
    return rng.choice(["null", "0", str(rng.randrange(2**63)), str(rng.randrange(1000)), str(2**63 - 1)])


def odd_at(rng: Random) -> str:
    """A position that is refused, or unusual."""
    return rng.choice(
        ["-0", "-1", "1.0", "1e3", "01", '"1"', "true", str(2**63), str(2**64), "9" * 20, "[1]", ""]
    )


def simple_epoch(rng: Random) -> str:
    """An epoch."""
    return rng.choice(["null", f'"{rng.randrange(1, 2**64):016x}"', '"0000000000000001"', f'"{"f" * 16}"'])


def odd_epoch(rng: Random) -> str:
    """An epoch that no session has, or that is refused."""
    token = f"{rng.getrandbits(64):016x}"
    return rng.choice(
        [
            f'"{"0" * 16}"',
            f'"{token[1:]}"',
            f'"{token}0"',
            f'"{token.upper()}x"',
            "1",
            '"' + token,
            f"{token}",
            '""',
        ]
    )


def simple_body(rng: Random, number: Variant = simple_number) -> str:
    """A body that is plain if its numbers are."""
    items = [("observations", rows(rng, number, 20))]
    if rng.random() < 0.6:
        items.append(("at", simple_at(rng)))
    if rng.random() < 0.4:
        items.append(("epoch", simple_epoch(rng)))
    rng.shuffle(items)
    return _object(rng, items)


def odd_body(rng: Random) -> str:
    """A body with something unusual in it."""
    items = [("observations", rows(rng, simple_number, 3))]
    others = [
        ("at", simple_at(rng)),
        ("at", odd_at(rng)),
        ("epoch", simple_epoch(rng)),
        ("epoch", odd_epoch(rng)),
        ("observations", rows(rng, simple_number, 3)),
        ("observations", odd_rows(rng)),
        ("horizon", "1"),
        ("model", '"sine"'),
        ("score", "false"),
        ("", "1"),
        ("obs", "1"),
        ("observationss", "[1]"),
        ("\\u0061t", "1"),
        ("a\\t", "1"),
        ("At", "1"),
    ]
    items += rng.sample(others, rng.randint(1, 2))
    if rng.random() < 0.4:
        items.pop(0)
    rng.shuffle(items)
    body = _object(rng, items)
    return rng.choice(
        [body] * 12 + [f"[{body}]", body + ",", body + "x", "\ufeff" + body, body[:-1] + ",}", "{}"]
    )


def _object(rng: Random, items: list[tuple[str, str]]) -> str:
    spaced = [f'{blanks(rng)}"{key}"{blanks(rng)}:{blanks(rng)}{value}{blanks(rng)}' for key, value in items]
    return f"{blanks(rng)}{{{','.join(spaced)}}}{blanks(rng)}"


def simple_id(rng: Random) -> str:
    """A session id."""
    size = rng.choice([1, 2, 8, 36, 128])
    return rng.choice("abc012") + "".join(rng.choice(ID_CHARACTERS) for _ in range(size - 1))


class Sender:
    """A client that sends the same head with every request."""

    def __init__(self, rng: Random) -> None:
        before, after = rng.choice(HEADS)
        length = rng.choice(LENGTH_FIELDS)
        fields = [*before.split("|"), length, *after.split("|")]
        self._template = "\r\n".join(
            ["POST /sessions/%s/observations HTTP/1.1", *filter(None, fields), "", ""]
        )

    def request(self, session: str, body: str) -> bytes:
        """A whole request."""
        encoded = body.encode()
        return (self._template % (session, len(encoded))).encode() + encoded

    def first(self) -> bytes:
        """A request that the ordinary way accepts."""
        return self.request("first", '{"observations": [1]}')


def almost_plain(rng: Random, sender: Sender) -> bytes:
    """A request that may or may not be plain."""
    session = rng.choice(ODD_IDS) if rng.random() < 0.1 else simple_id(rng)
    draw = rng.random()
    if draw < 0.3:
        return sender.request(session, simple_body(rng))
    if draw < 0.65:
        return sender.request(session, simple_body(rng, hard_number))
    return sender.request(session, odd_body(rng))


def damaged(rng: Random, request: bytes) -> bytes:
    """A damaged copy: a few bytes are changed, inserted, removed or repeated. Its length may be corrected."""
    data = bytearray(request)
    first = rng.choice([0, request.index(b"{")]) if b"{" in request else 0
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        i = rng.randrange(min(first, len(data) - 1), len(data))
        j = min(len(data), i + rng.choice([1, 1, 1, 2, 8]))
        damage = rng.randrange(5)
        if damage == 0:
            data[i] ^= 1 << rng.randrange(8)
        elif damage == 1:
            data[i] = rng.choice(b' \t\r\n\x00"{}[],:.+-eE0159az/%')
        elif damage == 2:
            data.insert(i, rng.choice(b' \t\r\n\x00"{}[],:.+-eE0159az/%'))
        elif damage == 3 and j - i < len(data):
            del data[i:j]
        else:
            data[i:i] = data[i:j]
    return _mended(bytes(data)) if rng.random() < 0.8 else bytes(data)


def _mended(request: bytes) -> bytes:
    head, blank, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    for k, line in enumerate(lines):
        if line.lower().startswith(b"content-length:"):
            digits = line.partition(b":")[2].strip()
            lines[k] = line.replace(digits, b"%d" % len(body)) if digits else line
    return b"\r\n".join(lines) + blank + body


def cuts(request: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The request in two parts, cut at every place."""
    return ((request[:i], request[i:]) for i in range(1, len(request)))
