-- How many entries of each stream the group has not finished. Of streams of ours alone: nothing is
-- trimmed there that was not read, so the server's own count of what is unread is right.
-- KEYS streams      ARGV[1] group
-- Returns {length, pending, unread} for each; unread is -1 where the server does not say (Redis 6).
local found = {}
for i = 1, #KEYS do
  found[i] = {redis.call('XLEN', KEYS[i]), 0, -1}
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
  end
end
return found
