-- Remove a consumer's name, if nothing is pending under it.
-- KEYS[1] stream       ARGV[1] group, ARGV[2] consumer, ARGV[3] idle time in ms it must have
-- Returns 1, or 0 if it is not there, has entries or was active.
local ok, consumers = pcall(redis.call, 'XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if not ok or consumers.err then
  return 0
end
for _, consumer in ipairs(consumers) do
  local about = {}
  for i = 1, #consumer, 2 do
    about[consumer[i]] = consumer[i + 1]
  end
  if about.name == ARGV[2] and about.pending == 0 and about.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    return 1
  end
end
return 0
