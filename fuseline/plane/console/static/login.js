// @ts-check
/**
 * The sign-in page: says why the last attempt was refused.
 *
 * The plane answers a wrong token with 303 to `/console/login?failed=1`. The text is the message and
 * the hint of the plane's error with this code, so that a person can look it up.
 */

const REFUSED =
  "E_OPERATOR_TOKEN: the operator token is missing or wrong. " +
  "Copy it again from the start-up output or from plane/operator.token.";

/** Show the refusal, and mark the field for assistive technology. */
function showRefusal() {
  const line = document.getElementById("token-error");
  const field = document.getElementById("token");
  if (!line || !field) return;
  line.textContent = REFUSED;
  line.hidden = false;
  field.setAttribute("aria-invalid", "true");
}

if (new URLSearchParams(location.search).get("failed") === "1") {
  showRefusal();
  // A reload or a bookmark is a new visit, not another refusal.
  history.replaceState(null, "", location.pathname);
}
