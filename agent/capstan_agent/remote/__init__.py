"""Sources that need the network, TLS or a library. Only the agent's image has what they import; nothing but
`sources` imports them, and only when an address asks for one."""
