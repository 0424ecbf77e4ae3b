#define NS portable
#define ISA_NAME "portable"
#define VL 4
#define NV_MAX 3
#define MR_MAX 6
#define MR_MAX_WIDE 4
#define TN_MR 6
#define TN_NV 2
#define PLANE_VECTORS 48
#include "kernels.inc"
const nextstate::Kernels* nextstate::kernels_portable() { return &portable::table; }
