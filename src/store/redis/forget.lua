-- Removes a record. One that can't be read might be in flight, so that it goes
-- only by force, as one that is.
--
-- ARGV: by force ('1') or not ('0'); and, if only one version of the record is
-- meant, its token, its attempt, and whether it is done ('1') or not ('0').
-- Answers: gone | absent | in-flight | moved | unreadable, why.

local forced, token = ARGV[1] == '1', number(ARGV[2])

local record, why = read()
if why and (token or not forced) then
  return unreadable(why)
end
if not record and not why then
  return { 'absent' }
end
if record and token and not (record[TOKEN] == token and record[ATTEMPT] == number(ARGV[3])
    and is_done(record) == (ARGV[4] == '1')) then
  return { 'moved' }
end
if record and not forced and left(record) > 0 then
  return { 'in-flight' }
end
call('DEL', key)
tell('0')
return { 'gone' }
