-- Append entries that hold several messages, perhaps only while this worker reads a certain
-- partition.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] partition, ARGV[2] token of this worker;
-- KEYS[2] counts (hash)                         '' for none
-- KEYS[3..] streams, by partition             ARGV[3..] of each entry: its partition, how many
--                                             messages, how many arguments, and these
-- Returns 1; nothing is appended, and false returned, if another worker reads the partition.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local call, argv = redis.call, ARGV
local at, stop = 3, #argv
while at <= stop do
  local partition, last = argv[at], at + 2 + argv[at + 2]
  call('XADD', KEYS[partition + 3], '*', unpack(argv, at + 3, last))
  call('HINCRBY', KEYS[2], 'added:' .. partition, argv[at + 1])
  at = last + 1
end
return 1
