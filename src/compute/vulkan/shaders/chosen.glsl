/* Which rows of the cache a row of the batch sees, where it does not see all. The includer declares the push constants. */

/* How many rows of the cache a row of the batch sees. */
uint seen(Uints set, uint own)
{
    if (ring > 0)
        return min(own + 1, window) + (CHOSEN ? min(set.v[0], most) : (own + 1) / every);
    uint count = min(set.v[0], most);
    return count == 0 ? 0 : (count - 1) * block + min(own - set.v[count] * block, block - 1) + 1;
}

/* The row of the cache that is number i of them. */
uint place_of(Uints set, uint own, uint capacity, uint i)
{
    if (ring == 0)
        return (set.v[1 + i / block] * block + i % block) % capacity;
    uint near = min(own + 1, window);
    if (i < near)
        return (own - near + 1 + i) % ring;
    return ring + (CHOSEN ? set.v[1 + i - near] : i - near);
}
