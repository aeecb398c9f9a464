// Panels of halves, as ../ptx/panels.ptx reads them: 64 rows by 16 columns, 2 KiB, neighbours along a row one after the other.
// In a panel, eight rows by eight columns are together (128 bytes), then the next eight columns, then the next eight rows.

// Where eight columns of a row are, in units of 16 bytes. columns is a multiple of 16.
uint panel_place(uint row, uint eight, uint columns)
{
    return (row / 64 * (columns / 16) + eight / 2) * 128 + row % 64 / 8 * 16 + eight % 2 * 8 + row % 8;
}
