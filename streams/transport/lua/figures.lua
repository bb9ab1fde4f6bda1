-- No script of its own: what the scripts that count entries have in common.
local function fields_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

-- Whether entry id a is below b. As text, because Lua's numbers do not hold 64 bits.
local function below(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
  if a_ms == b_ms then
    return #a_seq < #b_seq or (#a_seq == #b_seq and a_seq < b_seq)
  end
  return #a_ms < #b_ms or (#a_ms == #b_ms and a_ms < b_ms)
end

-- {added, length, first, last, deleted} of a stream; nil if there is none. `added` is nil on
-- servers that do not count (Redis 6), `first` is '' in an empty stream.
local function figures_of(key)
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err then
    return nil
  end
  info = fields_of(info)
  return {
    added = info['entries-added'],
    length = info['length'],
    first = info['first-entry'] and info['first-entry'][1] or '',
    last = info['last-generated-id'],
    deleted = info['max-deleted-entry-id'] or '0-0',
  }
end

-- The last id that a group was given, or nil if there is no such group.
local function delivered_of(key, group)
  local groups = redis.pcall('XINFO', 'GROUPS', key)
  if groups.err then
    return nil
  end
  for _, flat in ipairs(groups) do
    local fields = fields_of(flat)
    if fields['name'] == group then
      return fields['last-delivered-id']
    end
  end
  return nil
end

-- Nothing can be above it, and no range may begin there.
local LAST_POSSIBLE = '18446744073709551615-18446744073709551615'

-- How many entries are above an id; nil if they are more than `limit`.
local function count_after(key, id, limit)
  if id == LAST_POSSIBLE then
    return 0
  end
  local count, from = 0, '(' .. id
  while count <= limit do
    local page = redis.call('XRANGE', key, from, '+', 'COUNT', 500)
    count = count + #page
    if #page < 500 then
      return count
    end
    from = '(' .. page[#page][1]
  end
  return nil
end

-- What was ever added up to the entry that was delivered last, if that follows from the figures
-- alone: nothing is left to read, or nothing that was read is left. Otherwise nil.
local function implied(key, stream, delivered)
  if
    delivered == LAST_POSSIBLE
    or #redis.call('XRANGE', key, '(' .. delivered, '+', 'COUNT', 1) == 0
  then
    return stream.added
  end
  if below(delivered, stream.first) then
    return stream.added - stream.length
  end
  return nil
end

-- The same, by counting where it must be.
local function ordinal_of(key, stream, delivered, limit)
  local ordinal = implied(key, stream, delivered)
  if not ordinal then
    local left = count_after(key, delivered, limit)
    ordinal = left and stream.added - left
  end
  return ordinal
end
