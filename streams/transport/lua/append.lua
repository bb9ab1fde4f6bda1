-- Append entries of the same fields, perhaps only if this worker still reads a certain partition.
-- KEYS[1] owners (hash: partition -> token)   ARGV[1] partition, '' for none; ARGV[2] token of
-- KEYS[2..] streams                           this worker
--                                             ARGV[3] how many fields an entry has; their names
--                                             then for each stream that gets any: which of the
--                                             streams, how many entries, and all their values
-- Returns the ids of the entries; nothing is appended, and false returned, if another one reads it.
if ARGV[1] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return false
end
local call, argv, width = redis.call, ARGV, tonumber(ARGV[3])
local entry = {'XADD', '', '*'}
for field = 1, width do
  entry[2 + 2 * field] = argv[3 + field]
end
local last = 3 + 2 * width
local ids, at, stop = {}, 4 + width, #argv
while at <= stop do
  entry[2] = KEYS[tonumber(argv[at]) + 1]
  local behind = at + 2 + tonumber(argv[at + 1]) * width
  at = at + 2
  while at < behind do
    for field = 1, width do
      entry[3 + 2 * field] = argv[at + field - 1]
    end
    ids[#ids + 1] = call(unpack(entry, 1, last))
    at = at + width
  end
end
return ids
