/**
 * The one team there is. E2B's clients know many; here everybody with a key of the daemon shares all
 * sandboxes, so that what a client is told of teams is always this.
 */
export const teamId = "746f7270-6f72-4000-8000-000000000001";
export const teamName = "torpor";
