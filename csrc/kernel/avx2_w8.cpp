#define NS avx2_w8
#define ISA_NAME "avx2"
#define WEIGHTS8
#define VL 8
#define NV_MAX 3
#define MR_MAX 4
#define MR_MAX_WIDE 4
#define PLANE_VECTORS 48
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_avx2_w8() { return &avx2_w8::table; }
