-- Begin to count the messages of a partition, if they are not counted yet, or start anew.
-- KEYS[1] stream             ARGV[1] group, ARGV[2] partition
-- KEYS[2] counts (hash)      ARGV[3] 1: the group was made just now
-- Entries that nobody has counted are taken for one message each.
local added, done = 'added:' .. ARGV[2], 'done:' .. ARGV[2]
if ARGV[3] ~= '1' and redis.call('HEXISTS', KEYS[2], added) == 1 then
  return
end
local left = redis.call('XLEN', KEYS[1])
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #flat, 2 do
    group[flat[i]] = flat[i + 1]
  end
  if group.name == ARGV[1] and group.lag then
    left = group.pending + group.lag
  end
end
redis.call('HSET', KEYS[2], added, left, done, 0)
