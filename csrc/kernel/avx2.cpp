#define NS avx2
#define ISA_NAME "avx2"
#define VL 8
#define NV_MAX 3
#define MR_MAX 6
#define MR_MAX_WIDE 4
#define TILE_UNIT 2  // of 5 rows and 2 columns the compiler keeps a sum in memory
#define TN_MR 6
#define TN_NV 2
#define PLANE_VECTORS 48
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_avx2() { return &avx2::table; }
