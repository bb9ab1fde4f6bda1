-- Say that this worker is alive, and look at who else is and who holds what.
-- KEYS[1] members (hash: token -> description)     ARGV[1] token of this worker
-- KEYS[2] beats (hash: token -> count)             ARGV[2] its description
-- KEYS[3] owners (hash: partition -> token)
-- Returns {members, beats, owners}, each as HGETALL gives it.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
return {
  redis.call('HGETALL', KEYS[1]),
  redis.call('HGETALL', KEYS[2]),
  redis.call('HGETALL', KEYS[3]),
}
