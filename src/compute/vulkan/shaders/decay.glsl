/* exp of a number that is not positive. Decays close to 1 multiply a state thousands of times, and some devices' exp is
 * then always off to the same side. */
float exp_of_little(float a)
{
    if (a < -0.125)
        return exp(a);
    return fma(a, fma(a, fma(a, fma(a, fma(a, 1.0 / 120.0, 1.0 / 24.0), 1.0 / 6.0), 0.5), 1.0), 1.0);
}

/* What a row of a gated delta net leaves of the state. Kinds: 0: of a head; 1: of a channel; 2: of a channel, bounded. */
float decay_of(uint kind, float f, float rate, float bound)
{
    if (kind == 2)
        return exp_of_little(bound * sigmoid(abs(rate) * f));
    return exp_of_little(rate * (f > 20.0 ? f : log_of_one_more(exp(f)))); /* softplus */
}
