/**
 * An extension of the E2B wire: how a client that lost its connection gets the output it missed.
 *
 * Every byte a process prints has an offset in its stream, counted from the process's start. The
 * answer of Start and Connect says in the header `Torpor-Output-Offset` at which offset it begins:
 * `<stdout>,<stderr>`, or `<output>` alone for a process with a terminal. A client counts what it
 * receives, and sends the same header with Connect to continue there: the agent sends what the
 * client missed first, in the order in which it was printed. Without the header Connect begins with
 * what is printed next.
 *
 * The agent refuses with `out_of_range` an offset whose bytes are no longer kept, or that lies
 * ahead: it never leaves anything out in silence.
 */
export const outputOffsetHeader = "torpor-output-offset";
