# shellcheck shell=bash
# The flags of the TPU compiler, for training and for `jen1 plan`: both read LIBTPU_INIT_ARGS.
#
#   source launch/pods/xla_flags.sh
#
# libtpu 0.0.42 schedules for latency and gathers weights asynchronously, fused with arithmetic, by
# itself: the flags that are usually given for this change no program. The first two of these let
# gradients be summed asynchronously too, beside the arithmetic of the backward pass. The other two
# are for sums between slices: pipelined, also where sizes differ; on one slice they change nothing.
# What they gain has not been measured.
flags=(
  --xla_enable_async_all_reduce=true
  --xla_tpu_enable_async_collective_fusion_fuse_all_reduce=true
  --xla_tpu_enable_data_parallel_all_reduce_opt=true
  --xla_tpu_data_parallel_opt_different_sized_ops=true
)
export LIBTPU_INIT_ARGS="${flags[*]}"
