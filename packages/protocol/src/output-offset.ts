/**
 * An extension of the E2B wire: how a client that lost its connection gets the output it missed.
 *
 * Every byte a process prints has an offset in its stream, counted from the process's start. The
 * answer of Start and Connect names in the header `Torpor-Output-Offset` where it begins:
 * `<stdout>,<stderr>`, or `<output>` alone for a process with a terminal. A client counts what it
 * receives, and sends the same header with Connect to go on from there: what it missed comes first,
 * in the order in which it was printed. Without the header Connect begins with what is printed next.
 *
 * An offset whose bytes are no longer kept, or that lies ahead, is refused with `out_of_range`: nothing
 * is ever left out in silence.
 */
export const outputOffsetHeader = "torpor-output-offset";
