#define NS portable_w8
#define ISA_NAME "portable"
#define WEIGHTS8
#define VL 4
#define NV_MAX 3
#define MR_MAX 4
#define MR_MAX_WIDE 4
#define PLANE_VECTORS 48
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_portable_w8() { return &portable_w8::table; }
