-- One record, read and checked. Every script has this text before its own, and
-- KEYS[1]: the record's key, which is the name of its channel as well.
--
-- docs/stores.md lists the fields. Numbers stay below 2^53, which a double
-- carries exactly. As one they go to commands and into answers, where the
-- server writes all of their digits: Lua's own way to write one keeps 14. Every
-- answer is an array, the first element of which says what follows.

local FORMAT = '1'
local IN_FLIGHT, UNKNOWN, COMPLETED, SEALED, RELEASED = '1', '2', '3', '4', '5'
local LIMIT = 9007199254740992

-- Where read() has each field.
local STATE, TOKEN, ATTEMPT, FINGERPRINT, LAPSES_AT = 2, 3, 4, 5, 6
local NONCE, RETENTION, REFUSE, STATUS = 9, 10, 11, 12

local key = KEYS[1]
local call = redis.call

-- Microseconds since 1970, by the clock of this server.
local function now()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function number(text)
  if text and #text <= 16 and string.find(text, '^%d+$') then
    local value = tonumber(text)
    return value < LIMIT and value
  end
end

-- The record, its numbers made such; or nil and why it can't be read.
local function checked(record)
  local format, state = record[1], record[STATE]
  if not format then
    return nil, 'it has no format'
  end
  if format ~= FORMAT then
    return nil, 'it is of format ' .. format .. ', this version reads format ' .. FORMAT
  end
  local token, attempt = number(record[TOKEN]), number(record[ATTEMPT])
  if not token then
    return nil, 'its token is no number below 2^53'
  end
  if not attempt then
    return nil, 'its attempt is no number below 2^53'
  end
  record[TOKEN], record[ATTEMPT] = token, attempt
  if state == RELEASED then
    return record
  end
  local nonce, fingerprint = record[NONCE], record[FINGERPRINT]
  if not nonce or #nonce ~= 16 then
    return nil, 'its nonce is not 16 bytes'
  end
  if not fingerprint or #fingerprint ~= 32 then
    return nil, 'its fingerprint is not 32 bytes'
  end
  if state == IN_FLIGHT or state == UNKNOWN then
    local lapses_at, retention = number(record[LAPSES_AT]), number(record[RETENTION])
    if not lapses_at then
      return nil, 'its lapses_at is no number below 2^53'
    end
    if not retention then
      return nil, 'its retention is no number below 2^53'
    end
    if record[REFUSE] ~= '0' and record[REFUSE] ~= '1' then
      return nil, 'its refuse is neither 0 nor 1'
    end
    record[LAPSES_AT], record[RETENTION] = lapses_at, retention
  elseif state ~= COMPLETED and state ~= SEALED then
    return nil, 'it is in no known state (' .. (state or 'none') .. ')'
  end
  return record
end

-- The record; or nil if there is none, or nil and why it can't be read. What
-- can't be read is never taken for absent. With an answer, if a look-up might
-- have to hand it out.
local function read(with_answer)
  if call('EXISTS', key) == 0 then
    return nil
  end
  if with_answer then
    return checked(call('HMGET', key, 'format', 'state', 'token', 'attempt', 'fingerprint',
      'lapses_at', 'scope', 'origin', 'nonce', 'retention', 'refuse', 'status', 'began_at', 'completed_at',
      'kept_for', 'answer', 'answer_length', 'answer_sha256'))
  end
  return checked(call('HMGET', key, 'format', 'state', 'token', 'attempt', 'fingerprint',
    'lapses_at', 'scope', 'origin', 'nonce', 'retention', 'refuse'))
end

local function is_done(record)
  return record[STATE] == COMPLETED or record[STATE] == SEALED
end

local function is_undone(record)
  return record[STATE] == IN_FLIGHT or record[STATE] == UNKNOWN
end

-- How long a lease still lasts; that of an unknown one has ended.
local function left(record)
  return record[STATE] == IN_FLIGHT and math.max(record[LAPSES_AT] - now(), 0) or 0
end

-- What a claim or a look-up found, which has read the answer as well. Array and
-- record are one, since most of a script's time goes into what it makes; an
-- array ends at its first nil.
local function found(record, lapses_in)
  record[1], record[LAPSES_AT] = 'found', lapses_in
  if record[STATE] == COMPLETED then
    record[NONCE], record[RETENTION], record[REFUSE] = false, false, false
  else
    record[NONCE] = nil
  end
  return record
end

-- The server removes the record at this time, rounded up to its milliseconds.
local function ends_at(micros)
  call('PEXPIREAT', key, math.ceil(micros / 1000))
end

-- A lapsed record does not vanish with its lease: it is forgotten a retention
-- later, or under `refuse` stays until someone resolves it.
local function lapses(at, retention, refuse)
  if refuse == '1' then
    call('PERSIST', key)
  else
    ends_at(at + retention)
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
