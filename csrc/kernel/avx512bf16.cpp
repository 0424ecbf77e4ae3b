#define NS avx512bf16
#define ISA_NAME "avx512bf16"
#define BF16
#define VL 16
#define NV_MAX 4
#define MR_MAX 8
#define MR_MAX_WIDE 6
#define TN_MR 12
#define TN_NV 2
#define PLANE_VECTORS 32
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_avx512bf16() { return &avx512bf16::table; }
