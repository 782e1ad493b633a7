"""What the store runs within the server, by digest: each session is compared and set in one atomic step."""

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


# A commit that is sent again, its first answer lost with the connection, finds its own revision: it is kept.
# Nearly all that this takes is the way from Lua to a command, so that what is kept for ever is set by one.
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

# WAIT covers what its own connection wrote: to be sure that replicas hold what another replica of ours
# wrote, write. The same bytes over themselves change nothing and are replicated behind all that came before.
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

PROBE = Script(
    "for i = 1, #KEYS do redis.call('SET', KEYS[i], '', 'PX', 60000) end return {}", arguments_per_key=0
)

SCRIPTS = (COMMIT, COMPARE, COMPARE_AND_WRITE, VALUES, HEADS, PROBE)
