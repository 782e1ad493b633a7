"""The scripts that the server runs, by digest: a session is compared and set in one atomic step."""

from __future__ import annotations

from hashlib import sha1

from app.stores.redis.values import PEEK_BYTES, REVISION_BYTES

_LAST = REVISION_BYTES - 1


class Script:
    """A Lua script. `arguments_per_key` is how many arguments it takes for each of its keys."""

    def __init__(self, source: str, arguments_per_key: int) -> None:
        self.source = source.encode()
        self.digest = sha1(self.source, usedforsecurity=False).hexdigest()
        self.arguments_per_key = arguments_per_key


# A commit is sent again when its answer was lost with the connection: it then finds its own revision, and
# counts as kept. Nearly all of the time goes into calls from Lua: sessions without a lifetime share one MSET.
COMMIT = Script(
    f"""
local lost, kept = {{}}, {{}}
for i = 1, #KEYS do
    local base, milliseconds, value = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
    local found = redis.call('GETRANGE', KEYS[i], 0, {_LAST})
    if found == base then
        if milliseconds == '' then
            kept[#kept + 1] = KEYS[i]
            kept[#kept + 1] = value
        else
            redis.call('SET', KEYS[i], value, 'PX', milliseconds)
        end
    elseif found ~= string.sub(value, 1, {REVISION_BYTES}) then
        lost[#lost + 1] = i - 1
    end
end
if #kept > 0 then
    redis.call('MSET', unpack(kept))
end
return lost
""",
    arguments_per_key=3,
)

COMPARE = Script(
    f"""
local changed = {{}}
for i = 1, #KEYS do
    if redis.call('GETRANGE', KEYS[i], 0, {_LAST}) ~= ARGV[i] then
        changed[#changed + 1] = i - 1
    end
end
return changed
""",
    arguments_per_key=1,
)

# WAIT covers only writes of its own connection. So that it covers what another replica of ours wrote, the
# same bytes are written again: that changes nothing, and it is replicated after all earlier writes.
COMPARE_AND_WRITE = Script(
    f"""
local changed = {{}}
for i = 1, #KEYS do
    if redis.call('GETRANGE', KEYS[i], 0, {_LAST}) ~= ARGV[i] then
        changed[#changed + 1] = i - 1
    elseif ARGV[i] ~= '' then
        redis.call('SETRANGE', KEYS[i], 0, ARGV[i])
    end
end
return changed
""",
    arguments_per_key=1,
)

VALUES = Script(
    """
local values = {}
for i = 1, #KEYS do
    values[i] = redis.call('GET', KEYS[i]) or ''
end
return values
""",
    arguments_per_key=0,
)

HEADS = Script(
    f"""
local heads = {{}}
for i = 1, #KEYS do
    heads[i] = redis.call('GETRANGE', KEYS[i], 0, {PEEK_BYTES - 1})
end
return heads
""",
    arguments_per_key=0,
)

# The names of a model's sessions are a sorted set whose members all have the score 0: it is in byte order. A
# name is added before its session is committed and removed after the session is gone, so that a crash leaves
# a name too many and none too few. These scripts take members as a JSON array for each key.
ADD_NAMES = Script(
    """
for i = 1, #KEYS do
    for _, name in ipairs(cjson.decode(ARGV[i])) do
        redis.call('ZADD', KEYS[i], 0, name)
    end
end
return {}
""",
    arguments_per_key=1,
)

ADD_MODELS = Script(
    """
for i = 1, #KEYS do
    redis.call('SADD', KEYS[i], unpack(cjson.decode(ARGV[i])))
end
return {}
""",
    arguments_per_key=1,
)

MEMBERS = Script(
    """
local members = {}
for i = 1, #KEYS do
    members[i] = redis.call('SMEMBERS', KEYS[i])
end
return members
""",
    arguments_per_key=0,
)

REMOVE_NAMES = Script(
    """
for i = 1, #KEYS do
    for _, name in ipairs(cjson.decode(ARGV[i])) do
        redis.call('ZREM', KEYS[i], name)
    end
end
return {}
""",
    arguments_per_key=1,
)


def _pages(command: str, first: str, last: str) -> Script:
    """A page of names of each key; its arguments are the names at both ends, and the limit."""
    return Script(
        f"""
local pages = {{}}
for i = 1, #KEYS do
    local smaller, greater = '(' .. ARGV[3 * i - 2], '(' .. ARGV[3 * i - 1]
    pages[i] = redis.call('{command}', KEYS[i], {first}, {last}, 'LIMIT', 0, ARGV[3 * i])
end
return pages
""",
        arguments_per_key=3,
    )


NAMES = _pages("ZRANGEBYLEX", "smaller", "greater")
NAMES_DOWN = _pages("ZREVRANGEBYLEX", "greater", "smaller")

COUNTS = Script(
    """
local counts = {}
for i = 1, #KEYS do
    counts[i] = redis.call('ZCARD', KEYS[i])
end
return counts
""",
    arguments_per_key=0,
)

PROBE = Script("for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i]) end return {}", arguments_per_key=1)

ON_SESSIONS = (COMMIT, COMPARE, COMPARE_AND_WRITE, VALUES, HEADS, PROBE)
ON_NAMES = (ADD_NAMES, REMOVE_NAMES, NAMES, NAMES_DOWN, COUNTS, ADD_MODELS, MEMBERS)
SCRIPTS = ON_SESSIONS + ON_NAMES
