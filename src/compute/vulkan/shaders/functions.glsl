/* Functions of one number, as in cpu/rows_kernels.c. */
float sigmoid(float a)
{
    return 1.0 / (1.0 + exp(-a));
}

/* By exp of a number that is not positive: never infinity over infinity. */
float tanh_of(float a)
{
    float e = exp(-2.0 * abs(a));
    return sign(a) * (1.0 - e) / (1.0 + e);
}

float gelu(float a)
{
    return a * sigmoid(1.5957691216 * fma(0.044715, a * a * a, a));
}

/* Abramowitz and Stegun 7.1.26 is good to 1.5e-7. */
float erf_of(float a)
{
    float t = 1.0 / (1.0 + 0.3275911 * abs(a));
    float poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return sign(a) * (1.0 - poly * exp(-a * a));
}

float gelu_erf(float a)
{
    return 0.5 * a * (1.0 + erf_of(a * 0.70710678));
}

/* log(1 + e) where e may be lost beside 1. */
float log_of_one_more(float e)
{
    precise float u = 1.0 + e;
    precise float lost = u - 1.0;
    return lost == 0.0 ? e : log(u) * (e / lost);
}

/* cap tanh(a / cap) */
float capped(float a, float cap)
{
    return cap * (1.0 - 2.0 / (1.0 + exp(2.0 * a / cap)));
}

/* The gated activation of a kind, by its number in enum glu_kind. */
float gated(uint kind, float gate, float up, float alpha, float limit)
{
    switch (kind) {
    case 0:
        gate *= sigmoid(gate);
        break;
    case 1:
        gate = gelu(gate);
        break;
    case 2:
        gate = gelu_erf(gate);
        break;
    case 3:
        gate = max(gate, 0.0);
        break;
    case 4:
        gate = min(gate, limit);
        up = clamp(up, -limit, limit) + 1.0;
        gate *= sigmoid(alpha * gate);
        break;
    case 5:
        gate = sigmoid(gate);
        break;
    case 6:
        gate = min(gate, limit);
        up = clamp(up, -limit, limit);
        gate *= sigmoid(gate);
        break;
    case 7:
        gate = min(gate * sigmoid(gate), limit);
        up = clamp(up, -limit, limit);
        break;
    case 8:
        gate = max(gate, 0.0) + log(1.0 + exp(-abs(gate)));
        break;
    case 9:
        gate = capped(gate, alpha) * sigmoid(gate);
        if (limit != 0.0)
            up = capped(up, limit);
        break;
    }
    return gate * up;
}
