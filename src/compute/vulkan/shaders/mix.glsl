/* The weighted sum of the experts of a row, in the router's order. An expert that is not on the device was computed on
 * the CPU, which left its row in host_rows. The includer declares the names below in its push constants. */
#define MIX_MEMBERS                                                                                                    \
    FreshFloats device_rows;                                                                                           \
    FreshFloats host_rows;                                                                                             \
    FreshUints ids;                                                                                                    \
    FreshFloats weights;                                                                                               \
    Uints slots;                                                                                                       \
    FreshFloats shared_rows;                                                                                           \
    FreshFloats shared_gates;                                                                                          \
    uint used;

#define NO_SLOT 0xffffffffu

#define MIX_ELEMENT(row, columns, c, result)                                                                           \
    do {                                                                                                               \
        result = 0.0;                                                                                                  \
        for (uint i = 0; i < used; i++) {                                                                              \
            uint choice = (row) * used + i;                                                                            \
            bool here = uint64_t(slots) == 0 || slots.v[ids.v[choice]] != NO_SLOT;                                     \
            float value = here ? device_rows.v[choice * (columns) + (c)]                                               \
                               : host_rows.v[choice * (columns) + (c)];                                                \
            float weight = uint64_t(weights) != 0 ? weights.v[choice] : 1.0;                                           \
            result = i == 0 ? weight * value : fma(weight, value, result);                                             \
        }                                                                                                              \
        if (uint64_t(shared_rows) != 0) {                                                                              \
            float value = shared_rows.v[(row) * (columns) + (c)];                                                      \
            result += uint64_t(shared_gates) != 0 ? value / (1.0 + exp(-shared_gates.v[row])) : value;                 \
        }                                                                                                              \
    } while (false)
