-- Append entries that hold several messages to one topic or to several, perhaps only while this worker
-- reads a certain partition.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] partition, ARGV[2] token of this worker;
-- KEYS[2..] the counts (hash) of each topic,    '' for none
--           then the streams of each topic,   ARGV[3] how many topics
--           as many of each                   ARGV[4..] of each entry: its partition, how many
--                                             messages, how many arguments, and these
-- Returns 1; nothing is appended, and false returned, if another worker reads the partition.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local call, argv, topics = redis.call, ARGV, tonumber(ARGV[3])
local partitions = (#KEYS - 1 - topics) / topics
local at, stop = 4, #argv
while at <= stop do
  local partition, last = argv[at], at + 2 + argv[at + 2]
  local key = topics + 2 + partition
  for topic = 1, topics do
    call('XADD', KEYS[key + (topic - 1) * partitions], '*', unpack(argv, at + 3, last))
    call('HINCRBY', KEYS[1 + topic], 'added:' .. partition, argv[at + 1])
  end
  at = last + 1
end
return 1
