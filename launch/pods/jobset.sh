#!/usr/bin/env bash
# Trains on TPUs of a Kubernetes cluster: GKE with JobSet 0.6 or newer. Call it where `kubectl`
# works.
#
#   bash launch/pods/jobset.sh [--dry-run] train ARGUMENT ...
#   bash launch/pods/jobset.sh [--dry-run] logs|stop
#
# ARGUMENT ... is what follows `jen1 train`, for example
#
#   diffusion --config jen1_fast --workdir /data/runs/a --config.data.dir=/data/latents
#
# `train` creates a JobSet with one pod for each host. `logs` follows what the first host prints.
# `stop` deletes the JobSet; the training saves before. --dry-run prints the JobSet, or the command,
# and runs nothing. The variables below may be set on the command line, as in
# `IMAGE=... TOPOLOGY=v6e:16x16 bash launch/pods/jobset.sh ...`.
set -euo pipefail

IMAGE=${IMAGE:-}               # of launch/pods/Dockerfile with EXTRA=tpu, in a registry
NAME=${NAME:-jen1}             # of the JobSet
NAMESPACE=${NAMESPACE:-default}
TOPOLOGY=${TOPOLOGY:-v5e:4x4}  # as in `jen1 plan`; the node pools have machines of 4 chips
SLICES=${SLICES:-1}            # node pools of this topology
SPOT=${SPOT:-no}               # yes: on nodes that may be taken away at any moment
CLAIM=${CLAIM:-}               # PersistentVolumeClaim that all pods see as /data (ReadWriteMany)
RESTARTS=${RESTARTS:-20}       # after crashes
SAVING=${SAVING:-600}          # seconds that a training may take to save when it is stopped

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/pods/common.sh
source launch/pods/xla_flags.sh

usage='usage: jobset.sh [--dry-run] train ARGUMENT ... | logs | stop'
command=${1:-}
[ $# -eq 0 ] || shift
kubectl=(kubectl --namespace "$NAMESPACE")
case $command in
  train) [ $# -gt 0 ] || stop "give what follows \`jen1 train\`; $usage" ;;
  logs)
    first=jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0
    first+=,batch.kubernetes.io/job-completion-index=0
    run "${kubectl[@]}" logs --follow --tail 100 --selector "$first"
    exit
    ;;
  stop)
    run "${kubectl[@]}" delete jobset "$NAME"
    exit
    ;;
  *) stop "$usage" ;;
esac
[ -n "$CLAIM" ] || stop 'CLAIM names no volume for the runs and the data; see docs/pods.md.'
[ -n "$IMAGE" ] || stop 'IMAGE names no image; docs/pods.md says how to build one.'
read_topology "$TOPOLOGY"
[ $((chips % 4)) -eq 0 ] || stop "a machine has 4 chips, and $TOPOLOGY has $chips."
case $generation in
  v5e) accelerator=tpu-v5-lite-podslice ;;
  v5p) accelerator=tpu-v5p-slice ;;
  v6e) accelerator=tpu-v6e-slice ;;
esac

# ARGUMENT...: the arguments as a list of YAML strings.
yaml_list() {
  local word line=
  for word; do
    word=${word//\\/\\\\}
    line+=", \"${word//\"/\\\"}\""
  done
  echo "[${line#, }]"
}

# A pod that ends with 75, or whose node is taken away, fails its job by the podFailurePolicy; the
# JobSet then starts all pods again and does not count it. Other failures are counted.
jobset() {
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  namespace: $NAMESPACE
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $RESTARTS
    restartStrategy: BlockingRecreate
    rules:
      - name: stoppedOrPreempted
        action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $((chips / 4))
          completions: $((chips / 4))
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: jen1, operator: In, values: [75]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: "True"}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $SAVING
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $shape
$([ "$SPOT" != yes ] || echo '                cloud.google.com/gke-spot: "true"')
              containers:
                - name: jen1
                  image: $IMAGE
                  args: $(yaml_list train "$@")
                  env:
                    - {name: LIBTPU_INIT_ARGS, value: "$LIBTPU_INIT_ARGS"}
                    - {name: JAX_COMPILATION_CACHE_DIR, value: /data/.compiled}
                  resources:
                    limits: {google.com/tpu: 4}
                  volumeMounts: [{name: data, mountPath: /data}]
              volumes:
                - name: data
                  persistentVolumeClaim: {claimName: $CLAIM}
YAML
}

if [ -n "$dry_run" ]; then jobset "$@"; else jobset "$@" | "${kubectl[@]}" apply --filename -; fi
