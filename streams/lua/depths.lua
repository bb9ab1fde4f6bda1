-- How much of each stream the group has not finished. Of streams of ours alone: nothing is trimmed
-- there that was not read, so the server's own count of what is unread is right.
-- KEYS streams, and behind them      ARGV[1] group
--      for each the counts of its    ARGV[2..] of each stream its partition
--      topic (hash)
-- Returns {length, pending, unread, messages counted as not done} for each; unread is -1 where the
-- server does not say (Redis 6), and messages where they are not counted.
local found, streams = {}, #KEYS / 2
for i = 1, streams do
  found[i] = {redis.call('XLEN', KEYS[i]), 0, -1, -1}
  if found[i][1] > 0 then
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[i])) do
      local group = {}
      for n = 1, #flat, 2 do
        group[flat[n]] = flat[n + 1]
      end
      if group.name == ARGV[1] then
        found[i][2], found[i][3] = group.pending, group.lag or -1
      end
    end
    local partition = ARGV[1 + i]
    local counts = redis.call('HMGET', KEYS[streams + i], 'added:' .. partition, 'done:' .. partition)
    if counts[1] then
      found[i][4] = counts[1] - (counts[2] or 0)
    end
  end
end
return found
