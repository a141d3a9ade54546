-- One record, read and checked. Every script begins with this text, and with
-- KEYS[1]: the record's key, which is the name of its channel as well.
--
-- docs/stores.md lists the fields. Numbers are decimal digits and stay below
-- 2^53, which a double carries exactly: Lua's own way to write one keeps 14
-- digits, so exact() writes them. Every answer is an array of strings, the
-- first of which says what follows.

local FORMAT = '1'
local IN_FLIGHT, UNKNOWN, COMPLETED, SEALED, RELEASED = '1', '2', '3', '4', '5'
local LIMIT = 9007199254740992

local key = KEYS[1]

-- Microseconds since 1970, by the clock of this server. A replay needs none.
local clock
local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = tonumber(time[1]) * 1000000 + tonumber(time[2])
  end
  return clock
end

local function exact(number)
  return string.format('%.0f', number)
end

local function number(text)
  if text and #text <= 16 and string.find(text, '^%d+$') then
    local value = tonumber(text)
    if value < LIMIT then
      return value
    end
  end
end

-- The record, or nil if there is none, or nil and why it can't be read. What
-- can't be read is never taken for absent. With an answer, if a claim or a
-- look-up might have to hand it out: most of a script's time goes into calls.
local function read(with_answer)
  local fields
  if with_answer then
    fields = redis.call('HMGET', key, 'format', 'state', 'nonce', 'token', 'attempt',
      'fingerprint', 'lapses_at', 'retention', 'refuse', 'status', 'began_at',
      'completed_at', 'kept_for', 'answer', 'answer_length', 'answer_sha256')
  else
    fields = redis.call('HMGET', key, 'format', 'state', 'nonce', 'token', 'attempt',
      'fingerprint', 'lapses_at', 'retention', 'refuse')
  end
  local format, state = fields[1], fields[2]
  if not format then
    if redis.call('EXISTS', key) == 0 then
      return nil
    end
    return nil, 'it has no format'
  end
  if format ~= FORMAT then
    return nil, 'it is of format ' .. format .. ', this version reads format ' .. FORMAT
  end
  local record = {
    fields = fields,
    state = state,
    nonce = fields[3],
    token = number(fields[4]),
    attempt = number(fields[5]),
    fingerprint = fields[6],
    lapses_at = number(fields[7]),
    retention = number(fields[8]),
    refuse = fields[9],
  }
  if not record.token then
    return nil, 'its token is no number below 2^53'
  end
  if not record.attempt then
    return nil, 'its attempt is no number below 2^53'
  end
  if state == RELEASED then
    return record
  end
  if not record.nonce or #record.nonce ~= 16 then
    return nil, 'its nonce is not 16 bytes'
  end
  if not record.fingerprint or #record.fingerprint ~= 32 then
    return nil, 'its fingerprint is not 32 bytes'
  end
  if state == IN_FLIGHT or state == UNKNOWN then
    if not record.lapses_at then
      return nil, 'its lapses_at is no number below 2^53'
    end
    if not record.retention then
      return nil, 'its retention is no number below 2^53'
    end
    if record.refuse ~= '0' and record.refuse ~= '1' then
      return nil, 'its refuse is neither 0 nor 1'
    end
  elseif state ~= COMPLETED and state ~= SEALED then
    return nil, 'it is in no known state (' .. (state or 'none') .. ')'
  end
  return record
end

local function is_done(record)
  return record.state == COMPLETED or record.state == SEALED
end

local function is_undone(record)
  return record.state == IN_FLIGHT or record.state == UNKNOWN
end

local function is_lapsed(record)
  return record.state == UNKNOWN or record.state == IN_FLIGHT and record.lapses_at <= now()
end

-- What a claim or a look-up found, which has read the answer as well.
local function found(record)
  local fields = record.fields
  local answer = { 'found', FORMAT, record.state, fields[4], fields[5],
    record.fingerprint or '', '0' }
  if record.state == IN_FLIGHT then
    answer[7] = exact(record.lapses_at - now())
  elseif record.state == COMPLETED then
    for at = 10, 16 do
      answer[at - 2] = fields[at]
    end
  end
  return answer
end

-- The server removes the record at this time, rounded up to its milliseconds.
local function ends_at(micros)
  redis.call('PEXPIREAT', key, exact(math.ceil(micros / 1000)))
end

-- A lapsed record does not vanish with its lease: it is forgotten a retention
-- later, or under `refuse` stays until someone resolves it.
local function lapses(record)
  if record.refuse == '1' then
    redis.call('PERSIST', key)
  else
    ends_at(record.lapses_at + record.retention)
  end
end

-- Tells who waits. The record has changed by now, so that nothing may fail
-- here: who misses it asks again by a timer.
local function tell(state)
  redis.pcall('PUBLISH', key, state)
end

local function unreadable(why)
  return { 'unreadable', why }
end
