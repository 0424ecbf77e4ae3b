#define NS avx512_w8
#define ISA_NAME "avx512"
#define WEIGHTS8
#define VL 16
#define NV_MAX 4
#define MR_MAX 4
#define MR_MAX_WIDE 4
#define PLANE_VECTORS 32
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_avx512_w8() { return &avx512_w8::table; }
