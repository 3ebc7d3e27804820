# PowerShell completion for lcx; made by `lcx completion show powershell`
Register-ArgumentCompleter -Native -CommandName lcx -ScriptBlock {
    param($word, $command, $cursor)
    $words = @($command.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } | ForEach-Object {
        if ($_.PSObject.Properties['Value']) { [string]$_.Value } else { $_.Extent.Text }
    })
    if (-not $words) { return }
    $typed = if ($word -match '^["'']') { $word.Substring(1) -replace "''", "'" -replace '["'']$', '' } else { $word }
    $told = @{ _LCX_COMPLETE = 'powershell'; _LCX_WORDS = $words -join "`n"; _LCX_WORD = $typed; PYTHONUTF8 = '1' }
    $before = @{}
    $encoding = [Console]::OutputEncoding
    try {
        foreach ($name in $told.Keys) {
            $before[$name] = [Environment]::GetEnvironmentVariable($name)
            [Environment]::SetEnvironmentVariable($name, $told[$name])
        }
        [Console]::OutputEncoding = [Text.UTF8Encoding]::new($false)
        $found = & ($words[0] -replace '^~(?=[\\/])', $HOME) 2>$null
    } finally {
        [Console]::OutputEncoding = $encoding
        foreach ($name in $told.Keys) { [Environment]::SetEnvironmentVariable($name, $before[$name]) }
    }
    foreach ($line in $found) {
        $text, $help = $line -split "`t", 2
        if (-not $text) { continue }
        $written = if ($text -match '[\s''"`$(){};,@&|<>#]') { "'" + ($text -replace "'", "''") + "'" } else { $text }
        $shown = if ($help) { $help } else { $text }
        [System.Management.Automation.CompletionResult]::new($written, $text, 'ParameterValue', $shown)
    }
}
