-- Removes a record. One that can't be read might be in flight, so that it goes
-- only by force, as one that is.
--
-- ARGV: by force ('1') or not ('0').
-- Answers: gone | absent | in-flight | unreadable, why.

local forced = ARGV[1] == '1'

local record, why = read()
if why and not forced then
  return unreadable(why)
end
if not record and not why then
  return { 'absent' }
end
if record and not forced and left(record) > 0 then
  return { 'in-flight' }
end
call('DEL', key)
tell('0')
return { 'gone' }
