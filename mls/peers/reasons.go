package main

const preface = `# Verdicts on forged messages

Made by ` + "`make peers`" + `, which checks that it is unchanged: what Conclave, OpenMLS 0.9 and mls-rs 0.57 say of messages that are forged with real
keys, each right but for one rule. *rule* is its number in [validation.md](../../docs/validation.md), or the error that callers meet; without
one, the message is valid. *taken* is: the engine enters the epoch that the forger made. FORKS: it enters another one. PANICS: it does not answer.
`

// What several differences have in common. Each names its rule in docs/validation.md.
const (
	placesMLSRS  = "M21: mls-rs asks for no place"
	leafSuite    = "M22: mls-rs does not ask"
	defaultNamed = "M24: 7.2 says not to name what is default; mls-rs alone asks"
	reqDefault   = "M24: valid by 13.4; both refuse lists that name what is default"
	keyShape     = "M9: the others do not read the key"
	ciphertexts  = "M34: the others do not count what is not theirs to open"
	pathKeys     = "M29: mls-rs compares leaves, not parents"
	identityRule = "valid; the application is asked, and mls-rs's here says no"
	kpLifetime   = "G22: judged by package group, by the log's time"
	kpExtension  = "M23: mls-rs does not compare a key package's extensions with its capabilities"
	equalOnes    = "OpenMLS counts equal proposals once"
)

// reasons says of each case in which the engines differ why they do.
var reasons = map[string]string{
	"External commits: with a removal of somebody else":        "valid; the application is asked whether both are one client, and mls-rs's here says no",
	"External commits: with the signature key of a member":     "M28: OpenMLS does not ask external committers",
	"External commits: with two":                               "M52: " + equalOnes,
	"External commits: without the suite":                      leafSuite,
	"Key packages: a lifetime that has not begun":              kpLifetime,
	"Key packages: a lifetime that is over":                    kpLifetime,
	"Key packages: application id":                             placesMLSRS,
	"Key packages: capabilities without any suite":             leafSuite,
	"Key packages: capabilities without any version":           leafSuite,
	"Key packages: capabilities without the suite":             leafSuite,
	"Key packages: capabilities without the version":           leafSuite,
	"Key packages: default types among the capabilities":       defaultNamed,
	"Key packages: encryption key that is too short":           keyShape,
	"Key packages: no encryption key":                          keyShape,
	"Key packages: extension that is not":                      kpExtension,
	"Key packages: external key":                               placesMLSRS,
	"Key packages: external senders":                           placesMLSRS,
	"Key packages: ratchet tree":                               placesMLSRS,
	"Key packages: required capabilities":                      placesMLSRS,
	"Key packages: init key that is too short":                 "valid by 10.1, which asks nothing of it; nobody is welcomed by it, so that it harms its owner only",
	"Key packages: leaf with an application id":                "M23: valid, as the type is default; mls-rs wants it named",
	"Key packages: leaf with grease that it names":             "M21: valid by 13.5; OpenMLS refuses grease in a leaf",
	"Key packages: leaf with the mark of last resort":          placesMLSRS,
	"Paths: a ciphertext less":                                 ciphertexts,
	"Paths: a ciphertext more":                                 ciphertexts,
	"Paths: a key that is too short":                           keyShape,
	"Paths: another identity":                                  identityRule,
	"Paths: no support for the suite":                          leafSuite,
	"Paths: no support for the version":                        leafSuite,
	"Paths: one key for two nodes":                             pathKeys,
	"Paths: the key of a leaf":                                 pathKeys,
	"Paths: the signature key of a member":                     "M28: OpenMLS does not ask committers' new leaves",
	"Proposal lists: application id":                           placesMLSRS,
	"Proposal lists: external key":                             placesMLSRS,
	"Proposal lists: ratchet tree":                             placesMLSRS,
	"Proposal lists: reinit with others":                       "M58: OpenMLS does not ask",
	"Proposal lists: required default types":                   reqDefault,
	"Key packages: encryption key off the curve":               keyShape,
	"Proposal lists: required credential that nobody supports": "M25: OpenMLS does not ask the members",
	"Proposal lists: required proposal that nobody supports":   "M24: OpenMLS does not ask the members",
	"Proposal lists: two changes of the context":               "M59: " + equalOnes,
	"Proposal lists: two removals of one":                      "M56: " + equalOnes,
	"Proposal lists: two updates of one":                       "M56: OpenMLS takes the last",
	"Proposal lists: update that keeps the encryption key":     "M29: mls-rs compares with the other leaves only",
	"Proposal lists: update to another identity":               identityRule,
	"Proposal lists: update without the suite":                 leafSuite,
	"Proposal lists: an extension that is not required":        "G17: OpenMLS wants each extension of the context among the required ones; a rule of package group",
	"Welcomes: an application id in the context":               placesMLSRS,
	"Welcomes: an application id":                              placesMLSRS,
	"Welcomes: bytes behind the tree":                          "M2: mls-rs ignores what is behind a structure in an extension",
}
