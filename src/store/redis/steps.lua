-- The steps of a record: the field `steps` has their names in order, each as its
-- length, a colon and the name, and `step:NAME` has the result of each. They go with
-- the hash. This text comes after record.lua.

-- The names and that field; or nil and why it can't be read.
local function step_names()
  local text = call('HMGET', key, 'steps')[1] or ''
  local names, at = {}, 1
  while at <= #text do
    local colon = string.find(text, ':', at, true)
    local length = colon and number(string.sub(text, at, colon - 1))
    if not length or colon + length > #text then
      return nil, 'its steps are no list of names'
    end
    names[#names + 1] = string.sub(text, colon + 1, colon + length)
    at = colon + length + 1
  end
  return names, text
end

-- The fields of the results.
local function step_fields(names)
  local fields = {}
  for at, name in ipairs(names) do
    fields[at] = 'step:' .. name
  end
  return fields
end
