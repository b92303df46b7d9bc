#!/bin/sh
# Installs the packages that duo is built from, on Debian 12 and Ubuntu 24.04. Does nothing when all are there, so it can
# be run as often as one likes and without rights once they are. Uses sudo only if it is not run by root. Arguments are
# further packages, which tests/run.sh names.
set -eu

# ocl-icd-opencl-dev: Debian 12's oneDNN is built with OpenCL, its CMake files ask for it, and the package only recommends it.
PACKAGES="g++ cmake ninja-build pkg-config python3
  libdnnl-dev ocl-icd-opencl-dev libabsl-dev nlohmann-json3-dev libonig-dev libicu-dev libcli11-dev
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc prometheus-cpp-dev
  libboost-dev libssl-dev libopenmpi-dev openmpi-bin libgtest-dev libbenchmark-dev"

if ! command -v dpkg-query >/dev/null; then
  echo "error: this is not Debian or Ubuntu; install by hand the equivalents of:" $PACKAGES >&2
  exit 1
fi

missing=""
for package in $PACKAGES "$@"; do
  case "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)" in
    *"ok installed"*) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "error: these packages are missing and need root:$missing" >&2
    exit 1
  fi
  as_root="sudo"
fi
echo "Installing:$missing" >&2
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
