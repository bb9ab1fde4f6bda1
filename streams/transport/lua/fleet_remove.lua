-- Remove a worker, with all it holds: itself when it leaves, another one when it is dead.
-- KEYS[1] members (hash: token -> description)     ARGV[1] token of the worker to remove
-- KEYS[2] beats (hash: token -> count)             ARGV[2] its last known count; '' removes it
-- KEYS[3] owners (hash: partition -> token)                 whatever the count
-- Returns 1, or 0 if it has come back to life.
if ARGV[2] ~= '' and redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
local owners = redis.call('HGETALL', KEYS[3])
for i = 1, #owners, 2 do
  if owners[i + 1] == ARGV[1] then
    redis.call('HDEL', KEYS[3], owners[i])
  end
end
return 1
