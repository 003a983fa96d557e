# shellcheck shell=bash disable=SC2034
# Sourced by the job scripts, in the checkout: reads env.sh and translates IMGLISH_RUNTIME.
#
#   srun "${srun_options[@]}" ... "${python[@]}" -m MODULE
#
# Returns 2 after an error message if IMGLISH_RUNTIME is wrong.

# shellcheck source=slurm/env.sh
source "${IMGLISH_ENV:-slurm/env.sh}" || return 2

srun_options=(--cpus-per-task="${SLURM_CPUS_PER_TASK:-1}") # srun does not inherit it from the job
python=(python -u)
for word in ${IMGLISH_RUNTIME:-}; do
  what=${word#*:}
  case $word in
    module:?*)
      set +u # the module command of many sites reads unset variables
      module load "$what" || {
        echo "error: $word of IMGLISH_RUNTIME cannot be loaded; see: module avail" >&2
        return 2
      }
      set -u
      ;;
    venv:?*)
      if [ ! -f "$what/bin/activate" ]; then
        echo "error: $word of IMGLISH_RUNTIME is not a virtual environment on $(hostname)" >&2
        return 2
      fi
      # shellcheck source=/dev/null
      source "$what/bin/activate"
      ;;
    apptainer:?*)
      gpus=()
      [ -z "${SLURM_JOB_GPUS:-}${SLURM_GPUS_ON_NODE:-}" ] || gpus=(--nv)
      python=(apptainer exec "${gpus[@]}" --bind "$PWD${IMGLISH_MOUNTS:+,$IMGLISH_MOUNTS}" --pwd "$PWD" "$what" python -u)
      ;;
    pyxis:?*)
      mounts=$PWD:$PWD
      for folder in ${IMGLISH_MOUNTS//,/ }; do
        mounts+=,$folder:$folder
      done
      srun_options+=(--container-image="$what" --container-mounts="$mounts" --container-workdir="$PWD")
      ;;
    *)
      echo "error: $word of IMGLISH_RUNTIME must be module:NAME, venv:FOLDER, apptainer:IMAGE or pyxis:IMAGE" >&2
      return 2
      ;;
  esac
done
