-- Make a stream and its group, where they are missing, and begin to count from there.
-- KEYS[1] stream               ARGV[1] group, ARGV[2] id to start at
-- KEYS[2] position (hash);     ARGV[3] epoch to begin, ARGV[4] entries to count at most
--         none: not counted    ARGV[5] the last id known to be delivered, or ''
-- Returns {made, existed, added, length, first, last, known id is there, position as before}.
local existed = figures_of(KEYS[1])
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
if made.err and string.sub(made.err, 1, 9) ~= 'BUSYGROUP' then
  return made
end
local stream = figures_of(KEYS[1])
local before = KEYS[2] and redis.call('HGETALL', KEYS[2]) or {}
local known = ARGV[5]
if known == '' then
  known = fields_of(before)['id'] or ''
end
local is_there = known ~= '' and #redis.call('XRANGE', KEYS[1], known, known) or 0
if KEYS[2] and not made.err and stream.added then
  local delivered = delivered_of(KEYS[1], ARGV[1])
  local ordinal = ordinal_of(KEYS[1], stream, delivered, tonumber(ARGV[4]))
  redis.call('HDEL', KEYS[2], 'epoch')
  if ordinal then
    redis.call('HSET', KEYS[2], 'epoch', ARGV[3], 'id', delivered, 'ordinal', ordinal,
      'lost', 0, 'clean', delivered, 'last', stream.last, 'added', stream.added)
  end
end
return {
  made.err and 0 or 1, existed and 1 or 0, stream.added or -1, stream.length, stream.first,
  stream.last, is_there, before,
}
