/**
 * Id of the only team. E2B's clients know many teams; here everyone with a key of the daemon shares
 * all sandboxes, so clients that ask about teams always get this one.
 */
export const teamId = "746f7270-6f72-4000-8000-000000000001";
/** Name of the only team, which may precede the name of a template and a slash. */
export const teamName = "torpor";
