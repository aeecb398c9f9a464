/* Which positions a query sees. The includer declares the push constants window, chunk, bidirectional. */
#define NOTHING (-3.4028234e38) /* the maximum of a query that has seen nothing: finite, so that differences are numbers */

struct Range
{
    uint first, last;
};

Range range_of(Sequence sequence, uint row)
{
    uint own = sequence.first_position + row;
    Range range = Range(0, bidirectional != 0 ? sequence.first_position + sequence.rows - 1 : own);
    if (window > 0 && own >= window)
        range.first = own - window + 1;
    if (chunk > 0)
        range.first = max(range.first, own - own % chunk);
    return range;
}
