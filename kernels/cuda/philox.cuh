// Bits: Philox4x32-10, one counter per call.

// The keys of all rounds, computed on the host. Kernel parameters are in constant memory, so reading them is free.
struct RoundKeys {
  uint32 low[PHILOX_ROUNDS];
  uint32 high[PHILOX_ROUNDS];
};

struct Words {
  uint32 word[WORDS_PER_BLOCK];
};

// The words of block (block_high, block_low) of a stream.
INLINE Words philox_words(uint32 block_low, uint32 block_high, uint64 stream, const RoundKeys& keys) {
  uint32 c0 = block_low, c1 = block_high, c2 = (uint32)stream, c3 = (uint32)(stream >> 32);
#pragma unroll
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    const uint64 p0 = (uint64)c0 * PHILOX_M0, p1 = (uint64)c2 * PHILOX_M1;
    c0 = (uint32)(p1 >> 32) ^ c1 ^ keys.low[round];
    c1 = (uint32)p1;
    c2 = (uint32)(p0 >> 32) ^ c3 ^ keys.high[round];
    c3 = (uint32)p0;
  }
  return {{c0, c1, c2, c3}};
}
