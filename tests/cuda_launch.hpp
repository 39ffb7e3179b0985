// Behind the kernels: what a GPU does with a launch.

extern "C" void launch(void (*kernel)(const Job*, int64, int64, int64, RoundKeys), unsigned groups,
                       const Job* jobs, int64 count, int64 tiles, int64 span, const RoundKeys* keys) {
  gridDim.x = groups;
  for (blockIdx.x = 0; blockIdx.x < groups; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < THREADS; ++threadIdx.x) kernel(jobs, count, tiles, span, *keys);
}

extern "C" void launch_round(void (*kernel)(const float*, uint64, int64), unsigned groups, const float* from,
                             uint64 to, int64 count) {
  gridDim.x = groups;
  for (blockIdx.x = 0; blockIdx.x < groups; ++blockIdx.x)
    for (threadIdx.x = 0; threadIdx.x < THREADS; ++threadIdx.x) kernel(from, to, count);
}
