#define NS amx
#define ISA_NAME "amx"
#define BF16
#define AMX
#define VL 16
#define NV_MAX 4
#define MR_MAX 8
#define MR_MAX_WIDE 6
#define TN_MR 16
#define TN_NV 2
#define PLANE_VECTORS 32
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_amx() { return &amx::table; }
