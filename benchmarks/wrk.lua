-- Sends ready-made requests so that a session never has two in flight, and looks at every answer.
-- Arguments: the file of requests (see wrk.py), the pattern that finds the session in an answer.

local free, first, last = {}, 1, 0   -- a queue of sessions that await no answer
local flying, oldest, newest = {}, 1, 0
local sessions = {}
local pattern
local verifying = true
local threads = {}
bad = 0

function setup(thread)
  table.insert(threads, thread)
end

local function release(session)
  last = last + 1
  free[last] = session
end

function init(args)
  pattern = args[2]
  local file = assert(io.open(args[1], "rb"))
  local count, cycle = file:read("*n", "*n")
  file:read("*l")
  for _ = 1, count do
    local session = { name = file:read("*l"), turn = 0, requests = {} }
    for turn = 1, cycle do
      local size = file:read("*n")
      file:read(1)
      session.requests[turn] = file:read(size)
      file:read(1)
    end
    sessions[session.name] = session
    release(session)
  end
  file:close()
end

function request()
  local session = free[first]
  if verifying then                  -- wrk asks for one request at start-up and never sends it
    verifying = false
    return session.requests[1]
  end
  free[first] = nil
  first = first + 1
  session.turn = session.turn % #session.requests + 1
  if pattern == "" then
    newest = newest + 1
    flying[newest] = session
  end
  return session.requests[session.turn]
end

local function session_of(body)
  if pattern ~= "" then
    return sessions[body:match(pattern)]
  end
  local session = flying[oldest]
  flying[oldest] = nil
  oldest = oldest + 1
  return session
end

function response(status, headers, body)
  local session = status == 200 and session_of(body)
  if session then
    release(session)
  else
    bad = bad + 1
    wrk.thread:stop()
  end
end

function done(summary, latency, requests)
  local refused = 0
  for _, thread in ipairs(threads) do
    refused = refused + thread:get("bad")
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "seconds": %.6f, "bad": %d, "connect": %d, "read": %d, "write": %d, ' ..
    '"status": %d, "timeout": %d, "p50_us": %d, "p99_us": %d}\n',
    summary.requests, summary.duration / 1e6, refused, errors.connect, errors.read, errors.write,
    errors.status, errors.timeout, latency:percentile(50), latency:percentile(99)))
end
