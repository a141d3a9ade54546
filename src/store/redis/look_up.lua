-- What is there. A script, and not a plain read, for the server's clock and so
-- that no replica is asked.
--
-- Answers: found, … | absent | unreadable, why.

local record, why = read(true)
if why then
  return unreadable(why)
end
if not record then
  return { 'absent' }
end
return found(record, left(record))
