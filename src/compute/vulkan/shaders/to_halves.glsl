/* Four floats as halves; what is beyond their range becomes the greatest. */
uvec2 halves_of(vec4 a)
{
    a = clamp(a, -65504.0, 65504.0);
    return uvec2(packHalf2x16(a.xy), packHalf2x16(a.zw));
}
