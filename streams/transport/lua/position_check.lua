-- Compare how far a stream was read with what was ever added to it.
-- KEYS[1] stream               ARGV[1] group, ARGV[2] our consumer name
-- KEYS[2] position (hash)      ARGV[3..5] the worker's own epoch, id and ordinal, or ''
--                              ARGV[6] lost on that epoch and recorded
--                              ARGV[7] epoch to begin, where counting starts anew
--                              ARGV[8] entries to count at most, ARGV[9] 1: start anew
-- Returns {status, epoch, id, ordinal, implied ordinal or -1, added, length, first, last, deleted,
-- clean as it was and is, lost, last and added as they were}; the status is 'ok', 'no group', 'unsupported'
-- or 'unknown' (there is too much to count).
local stream = figures_of(KEYS[1])
local delivered = stream and delivered_of(KEYS[1], ARGV[1])
if not delivered then
  return {'no group'}
end
if not stream.added then
  return {'unsupported'}
end
local at = fields_of(redis.call('HGETALL', KEYS[2]))
local last_before, added_before = at.last or '', tonumber(at.added) or -1
local lost = tonumber(at.lost) or 0
if at.epoch and at.epoch == ARGV[3] then
  if below(at.id, ARGV[4]) then
    at.id, at.ordinal = ARGV[4], ARGV[5]
  end
  lost = math.max(lost, tonumber(ARGV[6]))
end

local others = false
for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  others = others or fields_of(flat)['name'] ~= ARGV[2]
end

local ordinal = nil
if at.epoch and ARGV[9] ~= '1' then
  if at.id == delivered then
    ordinal = tonumber(at.ordinal)
  elseif below(at.id, delivered) and not others then
    -- Delivered, and not to anybody who could tell: it is all pending still.
    ordinal = tonumber(at.ordinal)
    local from = '(' .. at.id
    repeat
      local page = redis.call('XPENDING', KEYS[1], ARGV[1], from, delivered, 1000)
      ordinal = ordinal + #page
      from = #page > 0 and '(' .. page[#page][1]
    until #page < 1000
  end
end
local expected = implied(KEYS[1], stream, delivered)
if ordinal and expected then
  -- More than there can be: somebody has moved the group or the stream. With another consumer at
  -- work in the group, nobody knows what it has read.
  if expected < ordinal + lost or (others and expected > ordinal + lost) then
    ordinal = nil
  end
end
if not ordinal then
  ordinal = ordinal_of(KEYS[1], stream, delivered, tonumber(ARGV[8]))
  if not ordinal then
    redis.call('HDEL', KEYS[2], 'epoch')
    redis.call('HSET', KEYS[2], 'last', stream.last, 'added', stream.added)
    return {'unknown', '', delivered, -1, -1, stream.added, stream.length, stream.first,
      stream.last, stream.deleted, delivered, delivered, 0, last_before, added_before}
  end
  at.epoch, at.clean, lost = ARGV[7], delivered, 0
end
local clean = at.clean
if expected and expected == ordinal + lost then
  at.clean = delivered
elseif not expected and not below(at.clean, stream.first) and not below(at.clean, stream.deleted) then
  at.clean = delivered -- in the middle of a backlog, and nothing behind that was removed
end
redis.call('HSET', KEYS[2], 'epoch', at.epoch, 'id', delivered, 'ordinal', ordinal, 'lost', lost,
  'clean', at.clean, 'last', stream.last, 'added', stream.added)
return {
  'ok', at.epoch, delivered, ordinal, expected or -1, stream.added, stream.length, stream.first,
  stream.last, stream.deleted, clean, at.clean, lost, last_before, added_before,
}
